# Docker Engine events as Tutum events: containers and, on a swarm manager, services and nodes.
#
#   docker events --format '{{json .}}' | jq --unbuffered -c -f docker.jq | tutum-filter --state Stopped
#
# `--arg node NAME` names this engine, the `node` parent of its containers; without it $HOSTNAME does, if exported.
# For jq 1.6 and later; needs no other file. A line that is no Docker event is told on standard error and skipped.
# Only a first line that is not JSON ends the run: jq reads that one before this program has a say.

def text: if type == "string" and . != "" then . else null end;
def whole: if type == "string" and test("^-?[0-9]{1,10}$") then tonumber else null end;
def uri($type): "/api/v1/\($type)/\(@uri)/";
def told: with_entries(select(.value != null));

# Nanoseconds since 1970 are more than a double holds: their rounding must not leave the second given beside them.
def datetime:
  if (.time | type) == "number" and .time >= 0 and .time < 253402300800 then
    (.time | floor) as $second
    | (if (.timeNano | type) == "number" then (.timeNano / 1e6 | floor) - $second * 1000 else 0 end) as $ms
    | ($second | todate | rtrimstr("Z")) + ".\("00\([0, ([$ms, 999] | min)] | max)"[-3:])Z"
  else null end;

# ---- What an action means: null is nothing to us, an update without a state keeps the last known one.

def starting: {action: "create", state: "Starting"};
def update($state): {action: "update", state: $state};
def terminated: {action: "delete", state: "Terminated"};

def container($attributes; $detail):
  (update("Stopped") + {exit_code: ($attributes.exitCode | whole)}) as $died
  | { create: starting,
      start: update("Running"), restart: update("Running"), unpause: update("Running"),
      # Another signal, such as HUP, may leave it running, and KILL has `die` on its heels. Podman names no signal.
      kill: (if $attributes.signal | IN(null, "15", "2", "3") then update("Stopping") else null end),
      die: $died,
      # Beside `die`, after it or (Podman) just before it, and without the exit code.
      stop: (update("Stopped") + {echo: true}),
      health_status: (update("Running") + {health: $detail}),
      rename: update(null), update: update(null),
      destroy: terminated,
      # Words of Podman, whose Docker API translates only some.
      init: starting, restore: update("Running"), died: $died, remove: terminated };

def service($attributes):
  ($attributes["updatestate.new"] | text) as $phase
  | { create: starting,
      update: (
        if $phase == null then
          if $attributes | has("replicas.new") or has("replicas.old") then update("Scaling") else null end
        elif $phase | startswith("rollback_") then update("Redeploying") + {update_state: $phase}
        else
          {updating: "Redeploying", completed: "Running", paused: "Partly running"}[$phase]
          | if . == null then null else update(.) + {update_state: $phase} end
        end),
      remove: terminated };

def node($attributes):
  ($attributes["state.new"] | text) as $phase
  | { create: {action: "create", state: "Deploying"},
      update: (if $phase == "ready" then update("Deployed")
               elif $phase | IN("down", "disconnected") then update("Unreachable")
               else null end),
      remove: terminated };

# A compose project has no dot in its name: "project.service" is one service of one project.
def parents($labels):
  ($labels["com.docker.compose.project"] | text) as $project
  | ($labels["com.docker.compose.service"] | text) as $service
  | { service: (($labels["com.docker.swarm.service.id"] | text)
                // if $project == null or $service == null then $service else "\($project).\($service)" end),
      stack: (($labels["com.docker.stack.namespace"] | text) // $project // ($labels.podId | text)),
      node: (($labels["com.docker.swarm.node.id"] | text) // ($ARGS.named.node | text) // (env.HOSTNAME | text)) };

# The news in a record; empty if there is none for us, an error if it is no Docker event.
def news:
  if [.Type, .Action, .Actor.ID | type] == ["string", "string", "string"] then . else error("not a Docker event") end
  | (.Actor.Attributes | if type == "object" then . else {} end) as $attributes
  | (.Action | split(": ")) as $action    # "exec_start: /bin/sh -c …", "health_status: healthy"
  | (if .Type == "container" then container($attributes; $action[1:] | join(": ") | text)
     elif .Type == "service" then service($attributes)
     elif .Type == "node" then node($attributes)
     else {} end)[$action[0] // ""] as $meaning
  | select($meaning != null and .Actor.ID != "")
  | $meaning + {
      type: .Type,
      resource_uri: (.Type as $type | .Actor.ID | uri($type)),
      parents: (if .Type == "container" then parents($attributes) else {} end),
      datetime: datetime,
      name: ($attributes.name | text),
      image: (($attributes.image | text) // ($attributes["image.new"] | text))
    };

# ---- What is known of each object, so that news is told once and `rename` can say a state.

# `.` is what is known of the object of the news, or null.
def weigh($news):
  . as $known
  | ($news | {state, exit_code, health, update_state} | told) as $fresh
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
      ( "docker.jq: line \(input_line_number): \($fault)" + if $n > 10 then " (\($n) so far)" else "" end
        | debug ) as $_
      | .
    else . end;

def records:
  {record: .},
  # At the end of input jq 1.6 raises "break", later versions "No more inputs".
  (label $eof | range(infinite) | try {record: input} catch
    if IN("break", "No more inputs") then break $eof else {fault: "not JSON"} end);

foreach (
  records | if .fault then . else .record | try news catch {fault: "not a Docker event"} end
) as $news (
  {"": {at: 0, faults: 0}};
  if $news.fault then complain($news.fault) else learn($news) end;
  .[""].event | select(. != null)
)
