# A person who repairs {{app}}/{{group}}: the permissions of deployer.hcl, `cutover node forget`, and `cutover recover`, which
# rebuilds lost keys. `recover` decides what the nodes run, so give this policy to few people. Fill in {{app}}, {{group}}.

key_prefix "cutover/" {
  policy = "read"
}
key "cutover/{{app}}/{{group}}/deploy" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/abort" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/freeze" {
  policy = "write"
}
# Questions to the nodes: --dry-run, doctor, node repair.
key "cutover/{{app}}/{{group}}/question" {
  policy = "write"
}
# Bad marks. They apply to every group of the app.
key_prefix "cutover/{{app}}/bad/" {
  policy = "write"
}

# Other keys that `cutover recover` writes: the barrier, status and history. It removes old member lists.
key "cutover/{{app}}/{{group}}/barrier" {
  policy = "write"
}
key "cutover/{{app}}/{{group}}/status" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/history/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/members/" {
  policy = "write"
}

# `cutover node forget` removes the presence and the answer of a node that will not come back, and writes a mark.
key_prefix "cutover/{{app}}/{{group}}/nodes/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/acks/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/forgotten/" {
  policy = "write"
}

# The nodes, and which of them are alive.
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
session_prefix "" {
  policy = "read"
}
