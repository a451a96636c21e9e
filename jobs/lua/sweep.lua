-- Forget deliveries that were never acknowledged, since their worker died. ARGV: age in seconds, limit. A job of theirs that
-- still lives has a lease or a place in its queue, and needs no message that nobody holds. kombu stamps them with its own
-- clock, so the age should be generous. Answers how many were forgotten.
local tags = redis.call('ZRANGEBYSCORE', UNACKED_INDEX, '-inf', now() / 1000 - tonumber(ARGV[1]), 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(tags) do
  redis.call('ZREM', UNACKED_INDEX, tag)
  redis.call('HDEL', UNACKED, tag)
end
return #tags
