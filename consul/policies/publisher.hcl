# CI of {{app}}: records builds and rings the doorbell. Deploys nothing. Fill in {{app}}.

# Earlier records, marks, and what CI said before; and for keep_builds all that the groups of the app run, have done and
# are asked for: with less, no build is removed.
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
# Only with keep_builds, and better for a token of its own: the mark of a bad build goes along with it. Who has this right
# can also lift a mark that a person has put. Without it, builds that were marked bad are kept, and it is said why.
#key_prefix "cutover/{{app}}/bad/" {
#  policy = "write"
#}

event "cutover-build" {
  policy = "write"
}
