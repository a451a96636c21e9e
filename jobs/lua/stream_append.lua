-- Add events to the stream of an attempt. ARGV: id, claim id, the attempt's first number, then of each event its number, its
-- kind (`event` stays, `delta` goes when the job has ended), its type and its data. What is there already is passed over (a
-- replay after a lost reply). Answers done, or what stands in the way: gone, ended, fenced.
local id, claim, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local job = load(id)
if not job then return 'gone' end
if TERMINAL[job.status] then return 'ended' end
if job.claim ~= claim then return 'fenced' end
local now_first, next = stream_numbers(job)
if now_first ~= first then return 'fenced' end
for i = 4, #ARGV, 4 do
  local number = tonumber(ARGV[i])
  if number >= next then
    local target = ARGV[i + 1] == 'delta' and deltas_key(id) or stream_key(id)
    redis.call('XADD', target, string.format('%d-0', number + 1), 't', ARGV[i + 2], 'd', ARGV[i + 3])
    next = number + 1
  end
end
redis.call('HSET', job_key(id), 'stream_next', next)
-- Its lease ran out and it was given up for dead, but nobody has claimed it since: it goes on.
local broke = redis.call('HGET', job_key(id), 'stream_broke')
if broke and tonumber(broke:match('^%d+')) == first then redis.call('HDEL', job_key(id), 'stream_broke') end
wake_followers(id)
return 'done'
