-- Make a file of a content that is written; or answer with the file that the Idempotency-Key names already.
-- ARGV: id, owner, filename, purpose, bytes, content (its key in the storage), lifetime in ms or '', idempotency key or '',
-- fingerprint, how long the idempotency key is kept (ms). Refused by a full Redis.
-- Answers {verdict, id, when it was made (ms)}: created; or {verdict, id}: known, conflict, or late: the content was reserved too long ago.
local id, owner, content, lifetime, idem, fingerprint = ARGV[1], ARGV[2], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local at = now()
if redis.call('HGET', file_key(id), 'content') == content then  -- a replay after a lost reply
  return {'created', id, tonumber(redis.call('HGET', file_key(id), 'created'))}
end
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint')
  if known[1] and redis.call('EXISTS', file_key(known[1])) == 1 then
    if known[2] ~= fingerprint then return {'conflict', known[1]} end
    -- A write, though it changes nothing: who waits for the disk (WAITAOF) waits for what this connection wrote.
    redis.call('HSET', idem, 'id', known[1])
    return {'known', known[1]}
  end
end
-- Its deletion may be under way.
local due = redis.call('ZSCORE', key('garbage'), content)
if not due or tonumber(due) <= at then return {'late', id} end
keep_file({
  id = id, owner = owner, filename = ARGV[3], purpose = ARGV[4], bytes = ARGV[5], content = content,
  lifetime = lifetime ~= '' and tonumber(lifetime) or nil,
}, at)
if idem ~= '' then
  redis.call('DEL', idem)
  redis.call('HSET', idem, 'id', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', idem, ARGV[10])
end
return {'created', id, at}
