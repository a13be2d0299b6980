# An agent without groups, which serves only the API and the page of {{app}}/{{group}}. Fill in {{node}}, {{app}}, {{group}}. For
# several groups, repeat the last key rule for each. The agent acts for callers with their tokens, never with this one.

key_prefix "cutover/" {
  policy = "read"
}

# Attestations of callers' identities, in keys that callers cannot write.
key_prefix "cutover/{{app}}/{{group}}/attests/{{node}}/" {
  policy = "write"
}

# The node name of the Consul agent.
agent "{{node}}" {
  policy = "read"
}
