# An agent without units, which serves API and page of {{app}}/{{group}} alone. Fill in {{node}}, {{app}}, {{group}}; for several
# units, the last key rule once per unit. It reads and writes for callers with their tokens, never with this one.

key_prefix "cutover/" {
  policy = "read"
}

# That it vouches for who has asked: in keys that no caller can write.
key_prefix "cutover/{{app}}/{{group}}/attests/{{node}}/" {
  policy = "write"
}

# The name of its Consul agent.
agent "{{node}}" {
  policy = "read"
}
