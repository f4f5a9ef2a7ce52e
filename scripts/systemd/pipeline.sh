#!/usr/bin/env bash
# What every pipeline under a service manager needs. Its script reads this first:
#
#   . "${TUTUM_SHARE:-/usr/share/tutum}/pipeline.sh"
#   tutum-stream | foreign_stage jq --unbuffered -c 'select(.type == "node")' | to-slack >/dev/null
#
# - TERM, which systemd sends to all at once, is the source's business: everything behind it ends at the end of its input.
# - The script ends with the status a supervisor should act on: of all stages', 3 (credentials refused) wins, then 2 (wrong
#   configuration), then the last failure.
# - Stages that are not ours notice, as ours do, that their reader is gone: foreign_source and foreign_stage run them.
# - A pager goes on without a chat that refuses its webhook: optional_sink runs the chat.
#
# Needs bash 4.4 and coreutils 8.28.

set -o pipefail -o errexit -o nounset
export LC_ALL=C.UTF-8
trap '' TERM

# Ends the script with the status to act on, from those of its stages.
settle() { # STATUS…
  local status verdict=0
  trap - EXIT
  for status in "$@"; do
    case $status in
      0) continue ;;
      # A program that is not there is a matter of configuration: it will not be there in five seconds either.
      126 | 127) status=2 ;;
    esac
    case $verdict:$status in
      3:* | 2:[!3]*) ;;
      *) verdict=$status ;;
    esac
  done
  exit "$verdict"
}
trap 'settle "$?" "${PIPESTATUS[@]}"' EXIT

# Ends the script if a setting is missing, which no restart will mend.
required() { # VARIABLE…
  local name
  for name in "$@"; do
    if [ -z "${!name:-}" ]; then
      echo "$0: $name is not set" >&2
      trap - EXIT
      exit 2
    fi
  done
}

# Waits for $command until it ends or nobody reads standard output. Its codes are not ours (jq's 3 is a wrong program, its 2 a
# broken line), so any failure is 4, the outside world's, and a restart may help; but not if the command cannot be run at all.
attend() {
  local status=0 watcher
  # Writes nothing, and ends when nobody would read it: what waits for its next line would not notice.
  tail -f /dev/null 3<&- &
  watcher=$!
  wait -n || true
  if [ -z "$stopped" ] && kill -0 "$command" 2>/dev/null; then
    kill -KILL "$command" 2>/dev/null || true
    wait "$command" 2>/dev/null || true
  else
    until ! kill -0 "$command" 2>/dev/null; do wait "$command" || status=$?; done
    wait "$command" || status=$?
  fi
  kill -KILL "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  case $status:$stopped in
    0:* | 143:* | *:yes) return 0 ;;
    126:* | 127:*) return 2 ;;
    *) return 4 ;;
  esac
}

# Runs a stage that is not ours, such as jq. It goes on to the end of its input.
foreign_stage() { # COMMAND…
  local command stopped=""
  "$@" <&0 &
  command=$!
  attend
}

# Runs a source that is not ours, such as docker events. TERM and INT end it, and that is no failure.
foreign_source() { # COMMAND…
  local command stopped=""
  (trap - TERM && exec "$@") </dev/null &
  command=$!
  trap 'stopped=yes; kill -TERM "$command" 2>/dev/null || true' TERM INT
  attend
}

# Runs the last sink of a pipeline so that those before it go on without it: a chat behind a pager. When it gives up by itself (credentials refused,
# wrong configuration, the outside world) that is told, what comes is dropped, and after a while it is tried again, with its spool. The status is then
# 1, which is restarted like any other but 2 and 3: else the pipeline might stay down for the chat's sake. A crash ends the pipeline.
optional_sink() { # COMMAND…
  local status pause deadline left verdict=0
  while :; do
    status=0
    "$@" || status=$?
    case $status in
      0) return "$verdict" ;;
      2 | 3 | 126 | 127) pause=3600 ;;
      4) pause=60 ;;
      *) return "$status" ;;
    esac
    verdict=1 pause=${OPTIONAL_SINK_PAUSE:-$pause}
    # For the journal: critical.
    echo "${JOURNAL_STREAM:+<2>}$0: $1 ended with $status: the rest goes on without it, and it is tried again in $pause seconds" >&2
    # Not by timeout(1), which would hand on a TERM and leave before the end of input.
    deadline=$((SECONDS + pause))
    while left=$((deadline - SECONDS)) && [ "$left" -gt 0 ]; do
      IFS= read -r -t "$left" _ || [ $? -gt 128 ] || return "$verdict"
    done
  done
}

# A source that is asked for what happened since a time misses nothing over a restart. FILE holds the newest records that came to the end of the
# pipeline, where all before it is safe; at the first start, now. (adapters/follow, for a pipeline of one's own at a terminal, keeps what it printed.)

# Prints the time to ask for: two seconds before the newest record, since engines do not write events strictly in the order of their times. The
# records in between come once more, for not_in to take out.
since() { # FILE
  if [ -s "$1" ]; then
    # What a crash cut short is no record.
    tail -n 1000 "$1" | jq -cR 'fromjson? // empty' >"$1.new"
    mv "$1.new" "$1"
  fi
  [ -s "$1" ] || printf '{"datetime":"%s"}\n' "$(date -u -d '2 seconds' +%FT%T.000Z)" >"$1"
  date -u -d "$(jq -rn '[inputs.datetime] | max' "$1") 2 seconds ago" +%FT%T.%3NZ
}

# Passes on the records that are not in the file.
not_in() { # FILE
  # shellcheck disable=SC2016  # jq's variables
  foreign_stage jq --unbuffered -c --slurpfile known "$1" '. as $record | select(any($known[]; . == $record) | not)'
}

# The end of a pipeline: keeps in the file how far it came.
remember() { # FILE
  local line count=0
  while IFS= read -r line; do
    [[ $line == *'"datetime":"'* ]] || continue
    printf '%s\n' "$line" >>"$1"
    sync "$1"
    # More than any engine repeats of two seconds.
    if [ $((++count)) -ge 1000 ]; then
      tail -n 1000 "$1" >"$1.new"
      mv "$1.new" "$1"
      count=0
    fi
  done
}
