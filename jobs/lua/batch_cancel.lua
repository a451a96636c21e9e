-- Begin to cancel a batch. ARGV: id, owner. Answers gone (or another owner's), its status if it cannot be cancelled any more, or
-- cancelling.
local id, owner = ARGV[1], ARGV[2]
local known = redis.call('HMGET', batch_key(id), 'owner', 'status')
if known[1] ~= owner then return 'gone' end
if known[2] ~= 'validating' and known[2] ~= 'in_progress' then return known[2] end
local at = now()
redis.call('HSET', batch_key(id), 'status', 'cancelling', 'cancelling_at', at, 'ending', 'cancelled')
wake_batch(id, at)
return 'cancelling'
