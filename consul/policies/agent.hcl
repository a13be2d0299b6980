# A node of {{app}}/{{group}} that does not coordinate. Fill in {{node}}, {{app}}, {{group}}.
# For several groups on the node, repeat the key rules with "write" for each group.

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

# For the API on this node: attestations of callers' identities, in keys that callers cannot write.
key_prefix "cutover/{{app}}/{{group}}/attests/{{node}}/" {
  policy = "write"
}

# Its own session, which holds its presence.
session "{{node}}" {
  policy = "write"
}
# At start: whether a live session of another node has its name.
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

# The node name of its Consul agent, and the catalog.
agent "{{node}}" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
