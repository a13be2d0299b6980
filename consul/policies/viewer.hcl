# Read only.

key_prefix "cutover/" {
  policy = "read"
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
