-- Batches. A batch's record says how far it is; beside it, `alive` holds its jobs that have not ended, `ended` its lines that
-- have and stand in no part yet, `bad` the errors of lines that never were a job, and `parts` the names of the parts written.
-- Due batches (`batch-due`, by when) are taken by workers, under a claim that `batch-due` holds the lease of.
--
-- The bytes of requests and results that lines have in Redis are counted, as they come and go: a line's are its request while
-- it is alive, and what it has brought until that stands in a part.
--
-- Each batch that has not ended, and each of its lines that is not fed yet, counts in the backlog of batches, which is a list
-- of as many tokens. While bulk is paused they are kept apart, so that no worker is kept for them.

-- How long (ms) beyond a batch's time its input is kept for it, at most: it may be late.
local KEPT_BESIDES = 7 * 24 * 3600 * 1000

local ENDED_BATCH = {completed = true, failed = true, cancelled = true, expired = true}

local function batch_key(id) return PREFIX .. 'batch:' .. id end

local function tokens_key()
  return redis.call('SISMEMBER', key('paused'), 'bulk') == 1 and key('held:batches') or key('backlog:batches')
end

local function count_tokens(id, change)
  if change == 0 then return end
  redis.call('HINCRBY', batch_key(id), 'tokens', change)
  if change < 0 then redis.call('LPOP', tokens_key(), -change) end
  while change > 0 do
    local some = {}
    for i = 1, math.min(change, 5000) do some[i] = '' end
    redis.call('RPUSH', tokens_key(), unpack(some))
    change = change - #some
  end
end

-- Count bytes of requests (`alive_bytes`) or results (`ended_bytes`) of a batch's lines, and of all batches together.
local function count_bytes(id, name, change)
  if change == 0 then return end  -- also -0, which Redis 7.0 takes for no integer
  redis.call('HINCRBY', batch_key(id), name, change)
  redis.call('INCRBY', key('batch-bytes'), change)
end

-- The bytes that a line has brought, whether it has been answered or not.
local function result_bytes(job)
  return redis.call('HSTRLEN', job_key(job), 'result') + redis.call('HSTRLEN', job_key(job), 'error')
end

-- Whether the claim still has the batch; its lease is renewed if so.
local function hold_batch(id, claim, lease)
  if redis.call('HGET', batch_key(id), 'claim') ~= claim then return false end
  redis.call('ZADD', key('batch-due'), now() + lease, id)
  return true
end

-- Mark a batch whose time is over, if something of it is left to be done.
local function mark_expired(id, at)
  local record = batch_key(id)
  local known = redis.call('HMGET', record, 'status', 'expires_at', 'ending', 'in_progress_at', 'fed', 'total')
  if not known[1] or known[3] or known[1] == 'finalizing' or tonumber(known[2]) > at then return end
  if known[4] and known[5] == known[6] and redis.call('ZCARD', record .. ':alive') == 0 then return end
  redis.call('HSET', record, 'ending', 'expired')
end

-- The error (JSON) of a line that nobody is to run any more, since its batch is being ended; nil if it is not. Whoever has
-- the batch may be busy with something else, and each call would be paid for.
local function ending_error(id, at)
  mark_expired(id, at)
  local ending = redis.call('HGET', batch_key(id), 'ending')
  if not ending then return nil end
  return ending == 'cancelled' and BATCH_CANCELLED_ERROR or BATCH_EXPIRED_ERROR
end

-- Have a worker look at the batch: now, or when the one that is at it lets go.
local function wake_batch(id, at)
  if redis.call('HEXISTS', batch_key(id), 'claim') == 1 then
    redis.call('HSET', batch_key(id), 'wake', 1)
  else
    redis.call('ZADD', key('batch-due'), 'LT', at, id)  -- not behind those that became due after it
  end
end

-- One of a batch's jobs has ended. It is written into a part, and others are fed, when there are enough to make it worth while.
local function line_ended(job, status, at)
  local record = batch_key(job.batch)
  local known = redis.call('HMGET', record, 'window', 'fed', 'total', 'low', 'wake_bytes')
  if not known[1] then return end
  redis.call('ZREM', record .. ':alive', job.id)
  redis.call('ZADD', record .. ':ended', job.line, job.id)
  local brought = result_bytes(job.id)
  count_bytes(job.batch, 'alive_bytes', -redis.call('HSTRLEN', job_key(job.id), 'request'))
  count_bytes(job.batch, 'ended_bytes', brought)
  redis.call('HINCRBY', record, 'told_bytes', brought)
  redis.call('HDEL', job_key(job.id), 'request')
  local done = status == 'completed' or status == 'incomplete'
  redis.call('HINCRBY', record, done and 'completed' or 'failed', 1)
  local alive, half = redis.call('ZCARD', record .. ':alive'), tonumber(known[1]) / 2
  local more = tonumber(known[2]) < tonumber(known[3])
  if alive == 0 or (more and alive <= tonumber(known[4] or half)) or redis.call('ZCARD', record .. ':ended') >= half
    or tonumber(redis.call('HGET', record, 'ended_bytes')) >= tonumber(known[5] or math.huge) then
    wake_batch(job.batch, at)
  end
end

local function announce_batch(id, owner, status, at)
  local type, number = 'batch.' .. status, id:match('_(%x+)$')
  for _, endpoint in ipairs(redis.call('SMEMBERS', subscribers_key(owner, type))) do
    local host = redis.call('HGET', endpoint_key(endpoint), 'host')
    if host then
      post({id = 'whd_' .. number .. '_' .. endpoint:sub(-12), owner = owner, endpoint = endpoint, host = host,
        event = 'evt_' .. number, type = type, object = id}, at)
    end
  end
end

-- The one way for a batch to end. `fields` is a flat list of record fields to set.
local function end_batch(id, status, fields, at, ttl)
  local record = batch_key(id)
  local known = redis.call('HMGET', record, 'owner', 'tokens', 'idem', 'alive_bytes', 'ended_bytes')
  redis.call('HSET', record, 'status', status, status .. '_at', at, unpack(fields))
  redis.call('HDEL', record, 'claim', 'wake', 'nameless')
  count_tokens(id, -tonumber(known[2]))
  count_bytes(id, 'alive_bytes', -tonumber(known[4] or 0))
  count_bytes(id, 'ended_bytes', -tonumber(known[5] or 0))
  redis.call('DEL', record .. ':alive', record .. ':ended', record .. ':bad', record .. ':parts')
  redis.call('ZREM', key('batch-due'), id)
  -- Its parts, not at once: a Redis that goes back in time (a backup, a failover) has a batch that needs them again.
  discard_content('batches/' .. id .. '/', at + PARTS_KEPT_MS)
  local input = redis.call('HMGET', record, 'input', 'content')
  if redis.call('HINCRBY', key('file-uses'), input[1], -1) <= 0 then
    redis.call('HDEL', key('file-uses'), input[1])
    local file = redis.call('HMGET', file_key(input[1]), 'owner', 'expires')
    if not file[1] then
      -- It was deleted, or has expired, while the batch was at it.
      discard_content(input[2], at)
    elseif file[2] then
      -- Kept for the batch, it goes with its file again.
      redis.call('ZADD', key('garbage'), 'XX', file[2], input[2])
    end
  end
  redis.call('PEXPIRE', record, ttl)
  if known[3] then redis.call('PEXPIRE', known[3], ttl) end
  redis.call('ZADD', key('expiring'), at + ttl, PREFIX .. 'batches:' .. known[1] .. ' ' .. id)
  redis.call('PUBLISH', EVENTS_CHANNEL, id .. ' ' .. status)
  announce_batch(id, known[1], status, at)
end
