# CI of {{app}}: records and announces builds. Deploys nothing. Fill in {{app}}.

# Earlier records, marks and runs; and for keep_builds the records, history and requests of the app's groups. Without this
# permission no build is removed.
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
# Only for keep_builds, and preferably for a separate token: removes the bad mark together with its build. This permission
# also allows lifting the marks of other people. Without it, builds with a bad mark are kept, and a message explains why.
#key_prefix "cutover/{{app}}/bad/" {
#  policy = "write"
#}

event "cutover-build" {
  policy = "write"
}
