# Podman events as Tutum events: containers.
#
#   podman events --format json | jq --unbuffered -c -f podman.jq | tutum-filter --state Stopped
#
# `--arg node NAME` names this host, the `node` parent of its containers; without it $HOSTNAME does, if exported.
# For jq 1.6 and later; needs no other file. A line that is no Podman event is told on standard error and skipped.
# Only a first line that is not JSON ends the run: jq reads that one before this program has a say.
# `docker events` against Podman's socket prints Docker's shape: that is for docker.jq.

def text: if type == "string" and . != "" then . else null end;
def uri($type): "/api/v1/\($type)/\(@uri)/";
def told: with_entries(select(.value != null));

def rfc3339($second; $ms): ($second | todate | rtrimstr("Z")) + ".\("00\($ms)"[-3:])Z";

# By hand, for jq 1.6's fromdate is an hour off where the local time zone has summer time.
def days:
  split("-") | map(tonumber) as [$year, $month, $day]
  | (if $month > 2 then $year else $year - 1 end) as $y
  | 365 * $y + ($y / 4 | floor) - ($y / 100 | floor) + ($y / 400 | floor)
    + ((153 * (($month + 9) % 12) + 2) / 5 | floor) + $day - 719469;
def seconds: split(":") | map(tonumber) | .[0] * 3600 + .[1] * 60 + (.[2] // 0);

def datetime:
  if (.Time | type) == "string" then    # Podman up to some 4.x
    [ .Time
      | try (
          capture("^(?<date>[0-9-]{10})T(?<clock>[0-9:]{8})(?<fraction>([.][0-9]+)?)(?<zone>Z|[+-][0-9]{2}:[0-9]{2})$")
          | ( if .zone == "Z" then 0
              else (.zone[1:] | seconds) * (if .zone[:1] == "-" then -1 else 1 end) end ) as $ahead
          | rfc3339((.date | days) * 86400 + (.clock | seconds) - $ahead; "\(.fraction[1:])000"[:3])
        ) catch null ][0]
  elif (.time | type) == "number" and .time >= 0 and .time < 253402300800 then
    # Nanoseconds since 1970 are more than a double holds: their rounding must not leave the second beside them.
    (.time | floor) as $second
    | (if (.timeNano | type) == "number" then (.timeNano / 1e6 | floor) - $second * 1000 else 0 end) as $ms
    | rfc3339($second; [0, ([$ms, 999] | min)] | max)
  else null end;

# `died` without a code is 0 in the older shape, which leaves out zeros.
def exit_code:
  if (.ContainerExitCode | type) == "number" then .ContainerExitCode | floor
  elif .ContainerExitCode == null and (.Time | type) == "string" then 0
  else null end;

# ---- What a status means: null is nothing to us, an update without a state keeps the last known one.

def update($state): {action: "update", state: $state};

def container:
  { create: {action: "create", state: "Starting"}, init: {action: "create", state: "Starting"},
    start: update("Running"), restart: update("Running"), restore: update("Running"), unpause: update("Running"),
    # With any signal, even one such as HUP: Podman does not say which.
    kill: update("Stopping"),
    died: (update("Stopped") + {exit_code: exit_code}),
    # Just before `died`, and without the exit code.
    stop: (update("Stopped") + {echo: true}),
    health_status: (update("Running") + {health: (.health_status | text)}),
    rename: update(null), update: update(null),
    remove: {action: "delete", state: "Terminated"} };

# A compose project has no dot in its name: "project.service" is one service of one project.
def parents($labels):
  ($labels["com.docker.compose.project"] | text) as $project
  | ($labels["com.docker.compose.service"] | text) as $service
  | { service: (if $project == null or $service == null then $service else "\($project).\($service)" end),
      stack: ($project // (.PodID | text)),
      node: (($ARGS.named.node | text) // (env.HOSTNAME | text)) };

# The news in a record; empty if there is none for us, an error if it is no Podman event.
def news:
  if [.Type, .Status | type] == ["string", "string"] then . else error("not a Podman event") end
  | (if .Type == "container" then container[.Status] else null end) as $meaning
  | select($meaning != null and (.ID | text) != null)
  | $meaning + {
      type: .Type,
      resource_uri: (.ID | uri("container")),
      parents: parents(.Attributes | if type == "object" then . else {} end),
      datetime: datetime,
      name: (.Name | text),
      image: (.Image | text)
    };

# ---- What is known of each object, so that news is told once and `rename` can say a state.

# `.` is what is known of the object of the news, or null.
def weigh($news):
  . as $known
  | ($news | {state, exit_code, health} | told) as $fresh
  | ((if $fresh.state | IN(null, $known.state) then $known else {parents: $known.parents} end)
     + $fresh + {parents: ($known.parents + ($news.parents | told))}) as $now
  | { known: (if $news.action == "delete" then null else $now end),
      event: (
        if $known.state != null and ($news.echo or $news.state != null and $news.action != "delete" and $now == $known)
        then null
        else
          { type: $news.type,
            # Podman says `init` at every start.
            action: (if $news.action == "create" and $known != null then "update" else $news.action end),
            state: $now.state,
            resource_uri: $news.resource_uri,
            parents: [("service", "stack", "node") as $type | $now.parents[$type] | select(. != null) | uri($type)],
            datetime: $news.datetime, name: $news.name, image: $news.image } + ($fresh | del(.state))
          | told
        end) };

# ---- From here on the adapters are alike; each is whole, to be copied to a host by itself.

# The memory maps resource_uri to {at, known}; under "" are the counters and the event to print. It is flat, and the
# weighing done inside [], because jq 1.6 else copies all of it for each event.
def learn($news):
  ([.[$news.resource_uri].known | weigh($news)][0]) as $weighed
  | (.[""] + {at: (.[""].at + 1), event: $weighed.event}) as $self
  | setpath([""]; $self)
  | if $weighed.known == null then delpaths([[$news.resource_uri]])
    else setpath([$news.resource_uri]; {at: $self.at, known: $weighed.known}) end
  # Bounded: now and then all but the 100,000 objects that last had news are forgotten.
  | if $self.at % 100000 == 0 then to_entries | sort_by(.value.at) | .[-100000:] | from_entries else . end;

def complain($fault):
  (.[""].faults + 1) as $n
  | setpath([""]; .[""] + {faults: $n, event: null})
  | if $n <= 10 or ($n | log10 | . == floor) then
      ( "podman.jq: line \(input_line_number): \($fault)" + if $n > 10 then " (\($n) so far)" else "" end
        | debug ) as $_
      | .
    else . end;

def records:
  {record: .},
  # At the end of input jq 1.6 raises "break", later versions "No more inputs".
  (label $eof | range(infinite) | try {record: input} catch
    if IN("break", "No more inputs") then break $eof else {fault: "not JSON"} end);

foreach (
  records | if .fault then . else .record | try news catch {fault: "not a Podman event"} end
) as $news (
  {"": {at: 0, faults: 0}};
  if $news.fault then complain($news.fault) else learn($news) end;
  .[""].event | select(. != null)
)
