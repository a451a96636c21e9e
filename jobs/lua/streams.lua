-- What the LLM call of a job has said so far, for those who follow it: two Redis streams whose entries are numbered together.
-- `stream:` holds the events that stay for as long as the job is kept, `stream-deltas:` the pieces of text, which are of no
-- use for long once the job has ended. The entry `n-0` is the event number n - 1, since no entry can be 0-0.
--
-- The job's record holds: `stream`, how many numbers are not the LLM call's (the API tells of the queue under them);
-- `stream_first` and `stream_next`, the first number of the current attempt and the one after its last; `stream_broke`,
-- `first:code` of the last attempt that ended without an end of the job.

local function stream_key(id) return key('stream:' .. id) end
local function deltas_key(id) return key('stream-deltas:' .. id) end

-- Followers look again. The channel is named as the key is.
local function wake_followers(id) redis.call('PUBLISH', stream_key(id), '') end

local function streamed(id) return redis.call('EXISTS', stream_key(id), deltas_key(id)) > 0 end

-- The numbers of the current attempt: its first and the next one.
local function stream_numbers(job)
  local numbers = redis.call('HMGET', job_key(job.id), 'stream_first', 'stream_next')
  return tonumber(numbers[1] or 0), tonumber(numbers[2] or job.stream)
end

-- Whoever follows the current attempt is to hear that it came to nothing, and why.
local function break_stream(job, code)
  if not job.stream or not streamed(job.id) then return end
  local first = stream_numbers(job)
  redis.call('HSET', job_key(job.id), 'stream_broke', first .. ':' .. code)
  wake_followers(job.id)
end

local function drop_stream(id) redis.call('DEL', stream_key(id), deltas_key(id)) end

-- The job has ended: its stream is kept for as long as its record; the pieces of text until those who follow have read them.
local function end_stream(job, ttl)
  if job.stream then
    redis.call('PEXPIRE', stream_key(job.id), ttl)
    redis.call('PEXPIRE', deltas_key(job.id), math.min(ttl, DELTAS_LINGER_MS))
  end
  wake_followers(job.id)
end
