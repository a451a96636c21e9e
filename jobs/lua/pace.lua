-- Count a host as slow, while a delivery to it is still on its way. ARGV: host.
note_pace(ARGV[1], true, now())
