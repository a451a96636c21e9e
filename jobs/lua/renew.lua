-- Renew the leases of all jobs that one worker runs, in one round trip. ARGV: lease in ms, then id and claim id in turn.
-- Answers the ids that are no longer the worker's to run: cancelled, deleted, ended, or claimed by another.
local expires = now() + tonumber(ARGV[1])
local lost = {}
for i = 2, #ARGV, 2 do
  local id, claim = ARGV[i], ARGV[i + 1]
  local known = redis.call('HMGET', job_key(id), 'status', 'claim')
  if known[1] == 'in_progress' and known[2] == claim then
    redis.call('ZADD', key('leases'), expires, id)
  elseif known[1] ~= 'queued' or known[2] ~= claim then
    lost[#lost + 1] = id
  end
end
return lost
