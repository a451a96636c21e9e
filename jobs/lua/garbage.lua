-- What is to be deleted from the storage by now, the oldest first. ARGV: limit. Answers keys, and folders with a slash at
-- their end.
return redis.call('ZRANGEBYSCORE', key('garbage'), '-inf', now(), 'LIMIT', 0, ARGV[1])
