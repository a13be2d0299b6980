# A person or a chat bot that deploys {{app}}/{{group}}: deploy, rollback, abort, freeze, mark-bad,
# --dry-run, doctor, node repair. Fill in {{app}}, {{group}}.

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
# Bad marks. They apply to every group of the app; without this rule mark-bad and mark-good are refused.
key_prefix "cutover/{{app}}/bad/" {
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
