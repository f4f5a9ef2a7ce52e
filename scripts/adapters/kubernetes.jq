# Kubernetes as Tutum events: pods (as containers), deployments and stateful sets (services), nodes, cluster events.
#
#   while :; do kubectl get pods -A -w -o json --output-watch-events; sleep 1; done |
#     jq --unbuffered -c -f kubernetes.jq | tutum-filter --state Stopped
#
# The loop, because the server closes every watch sooner or later; what is then listed again is known, and told only if
# it changed. What was deleted while no watch ran is not told. Without --output-watch-events (pretty-printed objects) no
# deletion is told. For jq 1.6 and later; needs no other file. A line that is no Kubernetes object is told on standard
# error and skipped. Only a first line that is not JSON ends the run: jq reads that one before this program has a say.

def text: if type == "string" and . != "" then . else null end;
def uri($type): "/api/v1/\($type)/\(@uri)/";
def told: with_entries(select(.value != null));
def items: if type == "array" then .[] | objects else empty end;

# Kubernetes writes UTC, with or without a fraction; null for anything else.
def rfc3339:
  if type == "string" and test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$")
  then "\(.[:19]).\("\(.[20:-1])000"[:3])Z" else null end;

# The last change of an object, as far as it tells.
def newest:
  [ .metadata.creationTimestamp, (.metadata.managedFields | items | .time),
    (.status.conditions | items | .lastTransitionTime, .lastUpdateTime),
    (.status.containerStatuses | items | .state | objects | .[] | objects | .startedAt, .finishedAt)
    | rfc3339 | strings ] | max;

# ---- Identity. A pod knows its workload and its node by name only, so these two go by name: "shop.deployment.web" (no
# namespace has a dot). The replica set between is left out: its name is the deployment's and a hash without vowels.

def workload($namespace; $kind; $name):
  if $kind == "ReplicaSet" and ($name | test("^.+-[b-df-hj-np-tv-xz2456789]{6,10}$"))
  then "deployment.\($name | sub("-[^-]*$"; ""))" else "\($kind | ascii_downcase).\($name)" end
  | "\($namespace).\(.)" | uri("service");

# A static pod's owner is its node: no workload.
def owner:
  .metadata.namespace as $namespace
  | [.metadata.ownerReferences | items | select(.kind != "Node")]
  | (map(select(.controller == true)) + .)[0] // empty
  | workload($namespace; .kind; .name);

def involved:
  if .kind == "Pod" then .uid | strings | uri("container")
  elif .kind == "Node" then .name | uri("node")
  elif .kind | IN("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")
  then workload(.namespace; .kind; .name)
  else empty end;

def stack: text | strings | uri("stack");

# ---- States, null where none can be told.

def ready: [.status.conditions | items | select(.type == "Ready")][0] // {};

def pod_state:
  if .metadata.deletionTimestamp != null then "Terminating"
  elif .status.phase == "Running" then if ready.status == "True" then "Running" else "Starting" end
  else {Pending: "Starting", Succeeded: "Stopped", Failed: "Stopped"}[.status.phase | text // ""] end;

# The first code that is a failure, else the first. Init containers count only where no other one ended.
def exit_code:
  [.status.containerStatuses | items | .state.terminated.exitCode | numbers] as $codes
  | if $codes != [] then $codes
    else [.status.initContainerStatuses | items | .state.terminated.exitCode | numbers] end
  | (map(select(. != 0)) + .)[0];

# What stands in the way of a pod: CrashLoopBackOff, OOMKilled, Evicted …
def pod_reason:
  [ .status.reason,
    (.status.initContainerStatuses, .status.containerStatuses | items | .state | .waiting.reason, .terminated.reason)
    | text | select(IN(null, "ContainerCreating", "PodInitializing", "Completed") | not) ][0];

def replicas: if .spec.replicas | type == "number" then .spec.replicas else 1 end;

# Whether the controller has yet to see the newest spec.
def unseen: (.status.observedGeneration | type) == "number" and .status.observedGeneration < .metadata.generation;

def workload_state:
  (.status.readyReplicas | if type == "number" then . else 0 end) as $ready
  | if replicas == 0 then "Stopped"
    elif $ready >= replicas then "Running"
    elif $ready > 0 then "Partly running"
    else "Starting" end;

def node_state:
  {True: "Deployed", False: "Unreachable", Unknown: "Unreachable"}[ready.status | text // ""] // "Deploying";

# A spec without its number of replicas as one number, so that none need be kept for comparing.
def fingerprint: del(.replicas) | tojson | explode | reduce .[] as $c (5381; (. * 33 + $c) % 4294967291);

# ---- The news in a record: {type, object} for each object it holds, then what each means; empty if there is none for
# us, an error if it is no Kubernetes object. `facts` is what makes it news, told again only when they differ.

def changes:
  if type != "object" then {type: "ADDED", object: .}
  elif .items | type == "array" then
    (.kind | rtrimstr("List")) as $kind    # the items of a raw list do not say theirs
    | .items[] | {type: "ADDED", object: (if type == "object" then .kind = (.kind // $kind) else . end)}
  elif .object | type == "object" then {type, object}
  else {type: "ADDED", object: .} end;

def pod:
  { type: "container", resource_uri: (.metadata.uid | uri("container")),
    parents: [owner, (.metadata.namespace | stack), (.spec.nodeName | text | strings | uri("node"))],
    image: ([.spec.containers | items][0].image | text),
    facts: (pod_state as $state | {
      state: $state,
      exit_code: (if $state == "Stopped" then exit_code else null end),
      reason: (if $state | IN("Starting", "Stopped") then pod_reason else null end) }) };

def service:
  { type: "service", resource_uri: workload(.metadata.namespace; .kind; .metadata.name),
    parents: [.metadata.namespace | stack],
    image: ([.spec.template.spec.containers | items][0].image | text),
    replicas: replicas, spec: (.spec | fingerprint), unseen: unseen,
    facts: {state: workload_state} };

def node:
  { type: "node", resource_uri: (.metadata.name | uri("node")), parents: [], facts: {state: node_state} };

# v1 has involvedObject, message, count; events.k8s.io has regarding, note, series.
def occurrence:
  (.involvedObject // .regarding) as $object
  | ( .series.lastObservedTime // .lastTimestamp // .deprecatedLastTimestamp // .eventTime // .firstTimestamp
      // .metadata.creationTimestamp | rfc3339 ) as $when
  | { type: "event", resource_uri: (.metadata.uid | uri("event")),
      parents: ($object | [involved, (.namespace | stack)]),
      name: ($object.name | text), newest: $when,
      # A repetition is news, with a higher count.
      facts: {state: (.reason | text), count: (.series.count // .count // .deprecatedCount), newest: $when},
      extra: {level: (.type | text), message: (.message // .note | text)} };

def news:
  .type as $change
  | .object
  # The server's own trouble, 410 Expired for one, and kubectl ends: nothing is known to have changed.
  | if $change == "ERROR" then error({say: "the watch failed: \(.code) \(.reason): \(.message)"})
    # BOOKMARK is only a place to resume from.
    elif $change | IN("ADDED", "MODIFIED", "DELETED") | not then empty
    elif [.metadata.uid, .metadata.name | text] | index(null) != null then error("no name or uid")
    else
      { change: $change, name: .metadata.name, newest: newest }
      + (if .kind == "Pod" then pod
         elif .kind | IN("Deployment", "StatefulSet") then service
         elif .kind == "Node" then node
         elif .kind == "Event" then occurrence
         else empty end)
      | if $change == "DELETED" then .facts = {state: "Terminated"} else . end
    end;

# ---- What is known of each object, so that its state is told only when it changes.

# Whether the newest time in an object is that of the news. A replica more or a deletion leaves none, and the time of
# an earlier change would be false.
def timely($known; $news; $state):
  if $known != null then $news.newest > $known.newest
  else ($news.change == "ADDED" or $news.type != "service") and ($state | IN("Terminating", "Terminated") | not) end;

# `.` is what is known of the object of the news, or null.
def weigh($news):
  . as $known
  | ( if $news.unseen and $news.change != "DELETED" then
        if $known.replicas != $news.replicas and $known.spec == $news.spec then {state: "Scaling"}
        else {state: "Redeploying"} end
      else $news.facts | told end ) as $facts
  | { known: (
        if $news.change == "DELETED" then null
        elif $facts.state == null then $known
        else ($news | {replicas, spec}) + {facts: $facts, newest: ([$known.newest, $news.newest] | max)} end),
      event: (
        if $facts.state == null                                         # the phase Unknown: the node is lost
          or ($news.change != "DELETED" and $facts == $known.facts)
          or ($news.change == "DELETED" and $news.type == "event")      # events expire
        then null
        else
          { type: $news.type,
            action: (if $news.change == "DELETED" then "delete"
                     elif $news.change == "ADDED" and $known == null and $news.type != "event" then "create"
                     else "update" end),
            state: $facts.state,
            resource_uri: $news.resource_uri,
            parents: $news.parents,
            datetime: (if timely($known; $news; $facts.state) then $news.newest else null end),
            name: $news.name, image: $news.image,
            exit_code: $facts.exit_code, reason: $facts.reason, count: $facts.count } + $news.extra
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
      ( "kubernetes.jq: line \(input_line_number): \($fault)" + if $n > 10 then " (\($n) so far)" else "" end
        | debug ) as $_
      | .
    else . end;

def records:
  {record: .},
  # At the end of input jq 1.6 raises "break", later versions "No more inputs".
  (label $eof | range(infinite) | try {record: input} catch
    if IN("break", "No more inputs") then break $eof else {fault: "not JSON"} end);

foreach (
  records
  | if .fault then .
    else .record | changes
      | try news catch {fault: (if type == "object" then .say else "not a Kubernetes object" end)} end
) as $news (
  {"": {at: 0, faults: 0}};
  if $news.fault then complain($news.fault) else learn($news) end;
  .[""].event | select(. != null)
)
