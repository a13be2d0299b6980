# CI of {{app}}: records builds and rings the doorbell. Deploys nothing. Fill in {{app}}.

# Earlier records, marks, and what CI said before.
key_prefix "cutover/{{app}}/" {
  policy = "read"
}
key_prefix "cutover/{{app}}/builds/" {
  policy = "write"
}
key "cutover/{{app}}/latest" {
  policy = "write"
}
key_prefix "cutover/{{app}}/runs/" {
  policy = "write"
}

event "cutover-build" {
  policy = "write"
}
