-- Make jobs of the next lines of a batch. ARGV: id, claim id, lease in ms, how many lines were fed before, the offset and the
-- number of the line behind these, then for each line six values: a job's id, its line, custom_id, message, model and
-- request; or 'bad', its line, its error (JSON), and three ''.
-- Answers done, stop (it is being ended) or fenced.
local id, claim, lease, before, offset, line = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local record = batch_key(id)
if not hold_batch(id, claim, lease) then return 'fenced' end
local count = (#ARGV - 6) / 6
local known = redis.call('HMGET', record, 'fed', 'status', 'ending', 'owner', 'endpoint')
if tonumber(known[1]) == before + count then return 'done' end  -- a replay after a lost reply
if tonumber(known[1]) ~= before then return 'fenced' end
if known[3] or known[2] ~= 'in_progress' then return 'stop' end
local requests, errors = 0, 0
for i = 7, #ARGV, 6 do
  local job, number = ARGV[i], ARGV[i + 1]
  if job == 'bad' then
    redis.call('HSET', record .. ':bad', number, ARGV[i + 2])
    redis.call('ZADD', record .. ':ended', number, 'bad:' .. number)
    redis.call('HINCRBY', record, 'failed', 1)
    errors = errors + #ARGV[i + 2]
  else
    requests = requests + #ARGV[i + 5]
    redis.call('ZADD', record .. ':alive', number, job)
    insert({id = job, owner = known[4], kind = LINE, queue = 'bulk'}, ARGV[i + 3], '', {
      'v', SCHEMA_VERSION, 'endpoint', known[5], 'batch', id, 'line', number, 'custom_id', ARGV[i + 2],
      'model', ARGV[i + 4], 'request', ARGV[i + 5]})
  end
end
redis.call('HSET', record, 'fed', before + count, 'offset', offset, 'line', line)
count_tokens(id, -count)
count_bytes(id, 'alive_bytes', requests)
count_bytes(id, 'ended_bytes', errors)
return 'done'
