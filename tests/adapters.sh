#!/usr/bin/env bash
# Runs each adapter of scripts/adapters over its samples in tests/data/adapters and compares with what is expected.
# Exit status: 0 all passed, 1 not all, 77 there is no jq. JQ=/path/to/jq tries another version.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
adapters=scripts/adapters
data=tests/data/adapters
jq=${JQ:-jq}
if ! command -v "$jq" >/dev/null; then
  echo "adapters.sh: no jq, nothing tested"
  exit 77
fi
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0
unset HOSTNAME

verdict() { # NAME STATUS
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $1"
  fi
}

# The command line of the adapters' first lines, with a node's name.
adapt() { # ADAPTER [OPTION…]
  local adapter=$1
  shift
  timeout 60 "$jq" --unbuffered -c -f "$adapters/$adapter.jq" --arg node node-1 "$@"
}

# Standard input through the adapter must be the expected lines, status 0, and nothing but diagnostics on standard error.
check() { # NAME ADAPTER EXPECTED
  local status=0
  adapt "$2" >"$scratch/out" 2>"$scratch/err" || status=1
  diff -u "$3" "$scratch/out" >"$scratch/diff" || status=1
  if grep -qv '^\["DEBUG:",' "$scratch/err"; then status=1; fi
  if [ "$status" -ne 0 ]; then head -n 20 "$scratch/err" "$scratch/diff"; fi
  verdict "$1" "$status"
}

garbage() {
  cat "$data/garbage.txt"
  for byte in '[' x; do
    head -c 200000 /dev/zero | tr '\0' "$byte"
    echo
  done
}

for sample in "$data"/*.ndjson "$data"/*.json; do
  case $sample in *.expected.ndjson) continue ;; esac
  name=$(basename "$sample")
  adapter=${name%%-*}
  expected=${sample%.*}.expected.ndjson
  check "$name" "$adapter" "$expected" <"$sample"
  # jq itself gives up on a first line that is not JSON: what follows may be anything.
  if [[ $name = *.ndjson ]]; then
    check "$name with garbage" "$adapter" "$expected" < <(head -n 1 "$sample"; garbage; tail -n +2 "$sample")
    check "$name with byte order mark and CRLF" "$adapter" "$expected" < <(printf '\xef\xbb\xbf'; sed 's/$/\r/' "$sample")
  fi
done

# In jq 1.6 the local time zone leaks into some functions.
export TZ=Europe/Berlin
for name in docker-events podman-events kubernetes-pods; do
  adapter=${name%%-*}
  sample=$data/$name.ndjson
  check "$adapter in a zone with summer time" "$adapter" "$data/$name.expected.ndjson" <"$sample"

  : >"$scratch/nothing"
  check "$adapter without input" "$adapter" "$scratch/nothing" </dev/null
  check "$adapter over garbage alone" "$adapter" "$scratch/nothing" < <(echo '"no record"'; garbage)

  # Faults are counted, not told one by one for ever.
  { echo '{}'; yes '}' | head -n 1000; } | adapt "$adapter" 2>"$scratch/err"
  test "$(wc -l <"$scratch/err")" -eq 12 && grep -q '(1000 so far)' "$scratch/err"
  verdict "$adapter: diagnostics are limited" $?

  # An event is out before the next one comes in.
  coproc LIVE { adapt "$adapter" 2>/dev/null; }
  live=$LIVE_PID output=${LIVE[0]} input=${LIVE[1]}
  status=0
  head -n 1 "$sample" >&"$input"
  read -r -t 10 line <&"$output" && test "$line" = "$(head -n 1 "$data/$name.expected.ndjson")" || status=1
  echo 'garbage }' >&"$input"
  tail -n +2 "$sample" >&"$input"
  exec {input}>&-
  cat <&"$output" >"$scratch/out"
  wait "$live" && diff <(tail -n +2 "$data/$name.expected.ndjson") "$scratch/out" || status=1
  verdict "$adapter is live" "$status"
done

# Without --arg node the host's name is the node, if there is one.
start='{"Type":"container","Action":"start","Actor":{"ID":"1"},"Status":"start","ID":"1"}'
for adapter in docker podman; do
  parents=$("$jq" -c -f "$adapters/$adapter.jq" <<<"$start" | "$jq" -c .parents
    HOSTNAME=web-3 "$jq" -c -f "$adapters/$adapter.jq" <<<"$start" | "$jq" -c .parents)
  test "$parents" = $'[]\n["/api/v1/node/web-3/"]'
  verdict "$adapter: node from HOSTNAME" $?
done

# kubectl ends every half an hour or so, and the next one lists again what there is: that is no news.
for name in kubernetes-pods kubernetes-deployments kubernetes-statefulsets kubernetes-nodes kubernetes-events kubernetes-events-v1; do
  again() { "$jq" -c -s 'group_by(.object.metadata.uid)[] | map(select(.type != "BOOKMARK" and .object.kind != "Status")) | last
    | select(. != null and .type != "DELETED") | .type = "ADDED"' "$data/$name.ndjson"; }
  test -n "$(again)" && check "$name listed again" kubernetes "$data/$name.expected.ndjson" < <(cat "$data/$name.ndjson"; again)
done

# What the adapters have in common is written out in each, and must stay the same.
for adapter in podman kubernetes; do
  common='/^# ---- From here on/,/^foreach/{s/"[a-z]*[.]jq: line/"NAME: line/;p}'
  diff <(sed -n "$common" "$adapters/docker.jq") <(sed -n "$common" "$adapters/$adapter.jq")
  verdict "$adapter.jq ends as docker.jq does" $?
done

echo "$passed passed, $failed failed"
test "$failed" -eq 0
