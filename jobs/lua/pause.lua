-- Pause a queue or let it go on. ARGV: queue, '1' to pause it. Renames carry what waits, however much that is; running jobs
-- stay in the backlog, and are looked through one by one. Answers 1 if it changed anything.
local queue, wanted = ARGV[1], ARGV[2] == '1'
if paused(queue) == wanted then return 0 end
-- Lines of batches that are not fed yet are bulk, too.
local function move_tokens(from, to)
  if queue == 'bulk' and redis.call('EXISTS', key(from)) == 1 then redis.call('RENAME', key(from), key(to)) end
end
local list, held_list = LIST_PREFIX .. queue, key('held-messages:' .. queue)
local backlog, held = key('backlog:' .. queue), key('held:' .. queue)
if wanted then
  redis.call('SADD', key('paused'), queue)
  if redis.call('EXISTS', list) == 1 then redis.call('RENAME', list, held_list) end
  if redis.call('EXISTS', backlog) == 1 then redis.call('RENAME', backlog, held) end
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    if redis.call('ZSCORE', held, id) then count({id = id, queue = queue}, 'held', 'backlog') end
  end
  move_tokens('backlog:batches', 'held:batches')
  return 1
end
redis.call('SREM', key('paused'), queue)
move_tokens('held:batches', 'backlog:batches')
for _, id in ipairs(redis.call('ZRANGE', backlog, 0, -1)) do count({id = id, queue = queue}, 'backlog', 'held') end
if redis.call('EXISTS', held) == 1 then redis.call('RENAME', held, backlog) end
-- What a stopping worker gave back meanwhile lies in the list itself.
for _, message in ipairs(redis.call('LRANGE', list, 0, -1)) do redis.call('RPUSH', held_list, message) end
redis.call('DEL', list)
if redis.call('EXISTS', held_list) == 1 then redis.call('RENAME', held_list, list) end
return 1
