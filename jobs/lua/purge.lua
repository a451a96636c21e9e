-- Take index entries of expired records away. ARGV: limit. Answers how many.
return purge(now(), tonumber(ARGV[1]))
