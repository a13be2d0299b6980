# One node that deploys {{app}}/{{group}}, and may coordinate it. Fill in {{node}}, {{app}}, {{group}}.
# These are the rights of agent.hcl, and those to drive a deploy; 3 to 5 nodes of a group are enough.

# What runs, what is to run, who takes part.
key_prefix "cutover/" {
  policy = "read"
}

# Its answers, to deploys and to questions, and its presence, by exact name: no node can speak for another.
key "cutover/{{app}}/{{group}}/acks/{{node}}" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/nodes/{{node}}" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/answers/{{node}}" {
  policy = "write"
}

# The request, which is emptied when it is taken; abort and freeze, which are created empty.
key "cutover/{{app}}/{{group}}/deploy" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/abort" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/freeze" {
  policy = "write"
}

# The lock, and what only its holder writes.
key "cutover/{{app}}/{{group}}/coordinator" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/barrier" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/status" {
  policy = "write"
}
# What its sweep of the artifact store has found.
key "cutover/{{app}}/{{group}}/store" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/members/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/history/" {
  policy = "write"
}
# What receivers of notifications were told.
key_prefix "cutover/{{app}}/{{group}}/told/" {
  policy = "write"
}

# Who asked, which is used up with the request; what was done besides deploys, and up to where that is recorded; where
# the older history lies; and marks of nodes that came back.
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
# At its start: whether a live session of another node holds its name. In a deploy: whether the members live.
session_prefix "" {
  policy = "read"
}

# The doorbell for new builds.
event "cutover-build" {
  policy = "read"
}

# Its instance of the service "cutover", with the check.
service "cutover" {
  policy = "write"
}
# With `service = "shop"` in the configuration: the check on that service.
#service "shop" {
#  policy = "write"
#}

# The name of its Consul agent, and the catalog: all nodes, because Consul filters a list in silence, and a member that
# is filtered away would not be waited for.
agent "{{node}}" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
