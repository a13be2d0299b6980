# Sees everything, changes nothing.

key_prefix "cutover/" {
  policy = "read"
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
