# One node that deploys {{app}}/{{group}}, and does not coordinate. Fill in {{node}}, {{app}}, {{group}}.
# For several units on the node: the three key rules of its own, once per unit.

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

# With the API on this node: for whom it has written, in keys that callers cannot write.
key_prefix "cutover/{{app}}/{{group}}/attests/{{node}}/" {
  policy = "write"
}

# Its own session, which holds its presence.
session "{{node}}" {
  policy = "write"
}
# At its start: whether a live session of another node holds its name.
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

# The name of its Consul agent, and the catalog.
agent "{{node}}" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
