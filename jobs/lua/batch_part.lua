-- A part of a batch's results is written: forget what stands in it. ARGV: id, claim id, lease in ms, the part's name, how many
-- lines were fed before, how many of the part's lines were never fed, the offset and the number of the line behind them, the
-- tokens that its lines have cost (input, cached, output, reasoning, total), then the members of `ended` that it holds.
-- Answers done or fenced.
local id, claim, lease, name, before, skipped = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local record = batch_key(id)
if redis.call('LPOS', record .. ':parts', name) then return 'done' end  -- a replay after a lost reply, however late
if not hold_batch(id, claim, lease) then return 'fenced' end
if skipped > 0 then
  if tonumber(redis.call('HGET', record, 'fed')) ~= before then return 'fenced' end
  redis.call('HSET', record, 'fed', before + skipped, 'offset', ARGV[7], 'line', ARGV[8])
  redis.call('HINCRBY', record, 'failed', skipped)
  count_tokens(id, -skipped)
end
for i, kind in ipairs({'input', 'cached', 'output', 'reasoning', 'total'}) do
  redis.call('HINCRBY', record, 'usage_' .. kind .. '_tokens', ARGV[8 + i])
end
local bytes = 0
for i = 14, #ARGV do
  local member = ARGV[i]
  redis.call('ZREM', record .. ':ended', member)
  local bad = member:match('^bad:(%d+)$')
  if bad then
    bytes = bytes + redis.call('HSTRLEN', record .. ':bad', bad)
    redis.call('HDEL', record .. ':bad', bad)
  else
    local job = load(member)
    if job then
      bytes = bytes + result_bytes(member)
      redis.call('ZREM', leaf(job, job.status), member)
      redis.call('DEL', job_key(member))
    end
  end
end
count_bytes(id, 'ended_bytes', -bytes)
redis.call('RPUSH', record .. ':parts', name)
return 'done'
