# A person, or a chat bot, that deploys {{app}}/{{group}}: deploy, rollback, abort, freeze, mark-bad,
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
# What the nodes are asked: --dry-run, doctor, node repair.
key "cutover/{{app}}/{{group}}/question" {
  policy = "write"
}
# Marks of bad builds. They hold for every group of the app; without this rule mark-bad and mark-good are refused.
key_prefix "cutover/{{app}}/bad/" {
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
