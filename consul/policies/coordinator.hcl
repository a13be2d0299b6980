# A node of {{app}}/{{group}} that may coordinate. Fill in {{node}}, {{app}}, {{group}}.
# These are the permissions of agent.hcl plus those to run a deploy; 3 to 5 nodes of a group are enough.

# All records: what runs, what should run, who takes part.
key_prefix "cutover/" {
  policy = "read"
}

# Its answers to deploys and to questions, and its presence, by exact name: no node can answer for another.
key "cutover/{{app}}/{{group}}/acks/{{node}}" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/nodes/{{node}}" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/answers/{{node}}" {
  policy = "write"
}

# The request, which the coordinator empties when it takes it; abort and freeze, which it creates empty.
key "cutover/{{app}}/{{group}}/deploy" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/abort" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/freeze" {
  policy = "write"
}

# The lock, and the keys that only its holder writes.
key "cutover/{{app}}/{{group}}/coordinator" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/barrier" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/status" {
  policy = "write"
}
# The result of its sweep of the artifact store.
key "cutover/{{app}}/{{group}}/store" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/members/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/history/" {
  policy = "write"
}
# The cursors of notification receivers.
key_prefix "cutover/{{app}}/{{group}}/told/" {
  policy = "write"
}

# Attestations, which it removes with the request; actions and their cursor; the index of archived history; and marks of
# forgotten nodes that came back.
key_prefix "cutover/{{app}}/{{group}}/attests/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/actions/" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/seen" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/archive" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/forgotten/" {
  policy = "write"
}

# Its own session, which holds its presence.
session "{{node}}" {
  policy = "write"
}
# At start: whether a live session of another node has its name. In a deploy: whether the members are alive.
session_prefix "" {
  policy = "read"
}

# The event for new builds.
event "cutover-build" {
  policy = "read"
}

# Its instance of the service "cutover", with its check.
service "cutover" {
  policy = "write"
}
# With `service = "shop"` in the configuration: the additional check on that service.
#service "shop" {
#  policy = "write"
#}

# The node name of its Consul agent, and the catalog with all nodes: Consul silently filters lists, and the coordinator
# would not wait for a member that was filtered out.
agent "{{node}}" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
