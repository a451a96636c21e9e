-- Make a job and its Celery message in one step; or answer with the job that the Idempotency-Key names already.
-- ARGV: id, owner, kind, queue, idempotency key or '', fingerprint, message, deadline in ms from now or '', then the
-- record's other fields. Refused by a full Redis (no allow-oom), as all that takes more memory for good.
-- Answers {verdict, id}, and for a job that was made its creation (ms) and its rank in the queue.
local id, owner, kind, queue, idem, fingerprint, message, deadline =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local function made()
  local rank = redis.call('ZRANK', key('waiting:' .. queue), id)
  return {'created', id, tonumber(redis.call('HGET', job_key(id), 'created')), rank or -1}
end

if redis.call('EXISTS', job_key(id)) == 1 then return made() end  -- a replay after a lost reply
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint')
  if known[1] and redis.call('EXISTS', job_key(known[1])) == 1 then
    if known[2] ~= fingerprint then return {'conflict', known[1]} end
    -- A write, though it changes nothing: who waits for the disk (WAITAOF) waits for what this connection wrote.
    redis.call('HSET', idem, 'id', known[1])
    return {'known', known[1]}
  end
  redis.call('DEL', idem)
  redis.call('HSET', idem, 'id', id, 'fingerprint', fingerprint)
end

local at = insert({id = id, owner = owner, kind = kind, queue = queue}, message, deadline, {unpack(ARGV, 9)})
if idem ~= '' then redis.call('HSET', job_key(id), 'idem', idem) end
purge(at, 4)
return made()
