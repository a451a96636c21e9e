-- Renew the leases of all jobs that one worker runs, in one round trip. ARGV: lease in ms, then id and claim id in turn.
-- A job that was recovered meanwhile and that nobody has claimed anew is taken back: its call still runs, and another would
-- be paid for beside it. Answers the ids that are no longer the worker's: cancelled, deleted, ended, or claimed by another.
local expires = now() + tonumber(ARGV[1])
local lost = {}
for i = 2, #ARGV, 2 do
  local id, claim = ARGV[i], ARGV[i + 1]
  local job = load(id)
  if not job or job.claim ~= claim or TERMINAL[job.status] then
    lost[#lost + 1] = id
  elseif job.status == 'in_progress' then
    redis.call('ZADD', key('leases'), expires, id)
  elseif redis.call('ZSCORE', key('waiting:' .. job.queue), id) then
    leave_waiting(job)
    if paused(job.queue) then count(job, 'held', 'backlog') end
    set_status(job, 'in_progress')
    redis.call('HINCRBY', job_key(id), 'attempt', 1)
    redis.call('HINCRBY', job_key(id), 'strikes', -1)
    redis.call('ZADD', key('leases'), expires, id)
  end
end
return lost
