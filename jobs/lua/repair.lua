-- Send a waiting job's message again. ARGV: id, the enqueueing number that was seen, message. Answers 1 if it was sent.
local id, seen, message = ARGV[1], ARGV[2], ARGV[3]
local job = load(id)
if not job or job.status ~= 'queued' or job.eseq ~= seen then return 0 end
if not redis.call('ZSCORE', key('waiting:' .. job.queue), id) then return 0 end
enqueue(job, message, now(), true)
return 1
