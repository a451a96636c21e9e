-- One leaf per owner, kind, status and queue: a listing merges the newest of a few leaves, whatever their size.
local function leaf(job, status)
  return PREFIX .. 'index:' .. job.owner .. ':' .. job.kind .. ':' .. status .. ':' .. job.queue
end

local FIELDS = {
  'v', 'owner', 'kind', 'queue', 'status', 'seq', 'eseq', 'idem', 'claim', 'attempt', 'created', 'deadline', 'head',
  'strikes', 'retried_as', 'webhook_host', 'batch', 'line', 'stream',
}

local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[2] then return nil end
  local job = {id = id}
  for i, name in ipairs(FIELDS) do job[name] = values[i] or nil end
  return job
end

local TERMINAL = {completed = true, failed = true, cancelled = true, incomplete = true}

local function set_status(job, status)
  redis.call('ZREM', leaf(job, job.status), job.id)
  redis.call('ZADD', leaf(job, status), job.seq, job.id)
  redis.call('HSET', job_key(job.id), 'status', status)
  job.status = status
end

-- A paused queue keeps its messages where no worker looks, and its waiting jobs out of the backlog, so that no worker is
-- kept for them.
local function paused(queue) return redis.call('SISMEMBER', key('paused'), queue) == 1 end
local function message_list(queue) return paused(queue) and key('held-messages:' .. queue) or LIST_PREFIX .. queue end

-- Count a job in the one of the two sets and no longer in the other, as of when it was counted first.
local function count(job, from, to, at)
  local since = redis.call('ZSCORE', key(from .. ':' .. job.queue), job.id)
  if since then redis.call('ZREM', key(from .. ':' .. job.queue), job.id) end
  redis.call('ZADD', key(to .. ':' .. job.queue), 'NX', since or at, job.id)
end

-- When nobody waits, each message that is left in the list is stale (its job was cancelled, or is a duplicate). Dropping
-- them here keeps the list from growing while no worker runs.
local function leave_waiting(job)
  redis.call('ZREM', key('waiting:' .. job.queue), job.id)
  if redis.call('EXISTS', key('waiting:' .. job.queue)) == 0 then
    redis.call('DEL', message_list(job.queue))
  end
end

-- Make a job runnable: `message` is the Celery message that names it; `at` when it began to count in the backlog.
-- Its place in `waiting` is its number, or, at the head, below all others; such a job is marked: when it is claimed, lower
-- numbers have not been passed over.
local function enqueue(job, message, at, head)
  local seq = redis.call('INCR', key('seq'))
  local place = seq
  redis.call('HSET', job_key(job.id), 'eseq', seq)
  if head then
    redis.call('HSET', job_key(job.id), 'head', 1)
    local first = redis.call('ZRANGE', key('waiting:' .. job.queue), 0, 0, 'WITHSCORES')[2]
    if first then place = tonumber(first) - 1 end
  else
    redis.call('HDEL', job_key(job.id), 'head')
  end
  redis.call('ZADD', key('waiting:' .. job.queue), place, job.id)
  if paused(job.queue) then
    count(job, 'backlog', 'held', at)
  else
    redis.call('ZADD', key('backlog:' .. job.queue), 'NX', at, job.id)
  end
  redis.call(head and 'RPUSH' or 'LPUSH', message_list(job.queue), message)
  return seq
end

-- Write the record of a new job and make it runnable. `deadline` is in ms from now, or ''; `fields` is a flat list of the
-- record's other fields.
local function insert(job, message, deadline, fields)
  local at = now()
  job.status = 'queued'
  redis.call('HSET', job_key(job.id), 'owner', job.owner, 'kind', job.kind, 'queue', job.queue, 'status', job.status,
    'created', at, 'attempt', 0, 'strikes', 0, unpack(fields))
  if deadline ~= '' then
    redis.call('HSET', job_key(job.id), 'deadline', at + deadline)
    redis.call('ZADD', key('deadlines'), at + deadline, job.id)
  end
  job.seq = enqueue(job, message, at, false)
  redis.call('HSET', job_key(job.id), 'seq', job.seq)
  redis.call('ZADD', leaf(job, job.status), job.seq, job.id)
  return at
end

-- Take a job out of everything that makes it run again.
local function leave_all(job)
  leave_waiting(job)
  redis.call('ZREM', key('backlog:' .. job.queue), job.id)
  redis.call('ZREM', key('held:' .. job.queue), job.id)
  redis.call('ZREM', key('leases'), job.id)
  redis.call('ZREM', key('scheduled'), job.id)
  redis.call('ZREM', key('deadlines'), job.id)
end

-- The leaf of a finished job is written into the purge list, since the record itself will be gone by then.
local function purge_member(job)
  return leaf(job, job.status) .. ' ' .. job.id
end

local function purge(at, limit)
  local due = redis.call('ZRANGEBYSCORE', key('expiring'), '-inf', at, 'LIMIT', 0, limit)
  for _, member in ipairs(due) do
    local index, id = member:match('^(%S+) (%S+)$')
    redis.call('ZREM', index, id)
    local before, queue = index:match('^(.*):failed:([^:]+)$')
    if before then
      redis.call('ZREM', before .. ':dead:' .. queue, id)
      redis.call('ZREM', key('dead'), id)
    end
    redis.call('ZREM', key('expiring'), member)
  end
  return #due
end

-- A dead letter, until it is retried: in a leaf beside the statuses' own, and in the set of all owners'.
local function bury(job)
  redis.call('ZADD', leaf(job, 'dead'), job.seq, job.id)
  redis.call('ZADD', key('dead'), job.seq, job.id)
end

local function unbury(job)
  redis.call('ZREM', leaf(job, 'dead'), job.id)
  redis.call('ZREM', key('dead'), job.id)
end

-- The one way to end: every terminal state goes through here. `fields` is a flat list of record fields to set.
-- A job that is not stored is kept for a short while, and nobody is told of what cannot be looked up.
local function finish(job, status, fields, at, ttl)
  local was_running = job.status == 'in_progress'
  local stored = job.kind ~= UNSTORED
  if not stored then ttl = math.min(ttl, UNSTORED_MS) end
  leave_all(job)
  set_status(job, status)
  redis.call('HINCRBY', key('ended'), status, 1)
  redis.call('HSET', job_key(job.id), 'finished', at, unpack(fields))
  redis.call('HDEL', job_key(job.id), 'retry_at')
  if job.batch then
    -- It is kept until it is written into its batch's results, however long that takes; the batch is what is told of.
    line_ended(job, status, at)
    return was_running
  end
  if status == 'failed' and stored then bury(job) end
  redis.call('PEXPIRE', job_key(job.id), ttl)
  redis.call('ZADD', key('expiring'), at + ttl, purge_member(job))
  if job.idem then redis.call('PEXPIRE', job.idem, ttl) end
  end_stream(job, ttl)
  redis.call('PUBLISH', EVENTS_CHANNEL, job.id .. ' ' .. status)
  if stored then announce(job, status, at) end
  purge(at, 8)
  return was_running
end

-- The newest records whose ids stand in these leaves, below a number. Answers {1, {id, field values…}…}.
-- Each leaf is read a page at a time. What has expired and is not purged yet is taken away on the way, so that it can
-- neither fill a page nor be met again.
local function newest(indexes, below, limit, record_key, fields)
  local leaves = {}
  local function refill(one)
    one.ids = redis.call('ZREVRANGEBYSCORE', one.index, one.below, '-inf', 'WITHSCORES', 'LIMIT', 0, limit)
    one.at = 1
    if #one.ids > 0 then one.below = '(' .. one.ids[#one.ids] end
  end
  for _, index in ipairs(indexes) do
    local one = {index = index, below = below}
    refill(one)
    if #one.ids > 0 then leaves[#leaves + 1] = one end
  end

  local answer = {1}
  while #answer <= limit do
    local first
    for _, one in ipairs(leaves) do
      if one.ids[one.at] and (not first or tonumber(one.ids[one.at + 1]) > tonumber(first.ids[first.at + 1])) then
        first = one
      end
    end
    if not first then break end
    local id = first.ids[first.at]
    local values = redis.call('HMGET', record_key(id), 'owner', unpack(fields))
    if values[1] then
      values[1] = id
      answer[#answer + 1] = values
    else
      redis.call('ZREM', first.index, id)
    end
    first.at = first.at + 2
    if not first.ids[first.at] then refill(first) end
  end
  return answer
end
