# A person who mends {{app}}/{{group}}: all that deployer.hcl has, `cutover node forget`, and `cutover recover`, which
# begins again when the keys were lost. That is the right to decide what runs, so for few. Fill in {{app}}, {{group}}.

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
# What the nodes are asked: --dry-run, doctor, node repair.
key "cutover/{{app}}/{{group}}/question" {
  policy = "write"
}
# Marks of bad builds. They hold for every group of the app.
key_prefix "cutover/{{app}}/bad/" {
  policy = "write"
}

# What `cutover recover` writes besides: the record, and what people read. Old lists of members go.
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

# What `cutover node forget` writes: presence and answer of a node that will not come back go, and a mark says so.
key_prefix "cutover/{{app}}/{{group}}/nodes/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/acks/" {
  policy = "write"
}
key_prefix "cutover/{{app}}/{{group}}/forgotten/" {
  policy = "write"
}

# Which nodes there are, and which of them live.
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
session_prefix "" {
  policy = "read"
}
