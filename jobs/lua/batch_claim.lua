-- Take the batch that has been due for longest, if there is one, under a lease. ARGV: claim id, lease in ms.
-- A batch whose time is over ends as expired: that is written down here. Answers {} or {id, the record's fields…}.
local claim, lease = ARGV[1], tonumber(ARGV[2])
local at = now()
local id = redis.call('ZRANGEBYSCORE', key('batch-due'), '-inf', at, 'LIMIT', 0, 1)[1]
if not id then return {} end
local status = redis.call('HGET', batch_key(id), 'status')
if not status or ENDED_BATCH[status] then
  redis.call('ZREM', key('batch-due'), id)
  return {}
end
mark_expired(id, at)
redis.call('HSET', batch_key(id), 'claim', claim)
redis.call('HDEL', batch_key(id), 'wake')
redis.call('ZADD', key('batch-due'), at + lease, id)
local answer = redis.call('HGETALL', batch_key(id))
table.insert(answer, 1, id)
return answer
