-- A batch's file was looked through: its lines can be fed. ARGV: id, claim id, lease in ms, how many lines there are, the
-- numbers of those without a name of their own, with commas between, the model that all ask for or ''. Answers done or fenced.
local id, claim, lease, total = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not hold_batch(id, claim, lease) then return 'fenced' end
local known = redis.call('HMGET', batch_key(id), 'status', 'in_progress_at')
if known[2] then return 'done' end  -- a replay after a lost reply
-- One that was cancelled meanwhile has its lines told of as cancelled.
if known[1] == 'validating' then redis.call('HSET', batch_key(id), 'status', 'in_progress') end
redis.call('HSET', batch_key(id), 'in_progress_at', now(), 'total', total)
if ARGV[5] ~= '' then redis.call('HSET', batch_key(id), 'nameless', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', batch_key(id), 'model', ARGV[6]) end
count_tokens(id, total)
return 'done'
