-- Begin the stream of an attempt: what an attempt before has left is removed, and the numbers go on above it, with one left
-- free for the event that tells its followers. ARGV: id, claim id. Answers {done, first number, next number}, or what stands
-- in the way: gone, ended, fenced.
local id, claim = ARGV[1], ARGV[2]
local job = load(id)
if not job then return {'gone'} end
if TERMINAL[job.status] then return {'ended'} end
if job.claim ~= claim then return {'fenced'} end
local first, next = stream_numbers(job)
if streamed(id) then
  drop_stream(id)
  first = next + 1
  next = first
  redis.call('HSET', job_key(id), 'stream_first', first, 'stream_next', next)
  wake_followers(id)
end
return {'done', first, next}
