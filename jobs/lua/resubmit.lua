-- Make a new job of one that failed or was cancelled, once: the same again answers with the same new job.
-- ARGV: id, owner, id of the new job, message, the new job's traceparent or ''. Its deadline is as long as the first one's. Refused by a full Redis.
-- Answers {gone}, {newer} (a later release wrote it), {otherwise, its status}, {known, id of the new job}, or {created, its creation (ms), its rank}.
local id, owner, new, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local job = load(id)
if not job or job.owner ~= owner or job.kind == UNSTORED then return {'gone'} end
if job.batch then return {'gone'} end  -- a line of a batch is the batch's
if tonumber(job.v or SCHEMA_VERSION) > SCHEMA_VERSION then return {'newer'} end
if job.status ~= 'failed' and job.status ~= 'cancelled' then return {'otherwise', job.status} end
if job.retried_as and redis.call('EXISTS', job_key(job.retried_as)) == 1 then
  redis.call('HSET', job_key(id), 'retried_as', job.retried_as)  -- for WAITAOF, see create.lua
  return {'known', job.retried_as}
end

local fields = {'retried_from', id}
for _, name in ipairs({'v', 'endpoint', 'model', 'request', 'metadata', 'background', 'attempt_timeout',
  'webhook_url', 'webhook_host', 'previous', 'history', 'upstream_previous', 'stream'}) do
  local value = redis.call('HGET', job_key(id), name)
  if value then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
if ARGV[5] ~= '' then
  fields[#fields + 1] = 'trace'
  fields[#fields + 1] = ARGV[5]
end
local deadline = job.deadline and job.deadline - job.created or ''
local at = insert({id = new, owner = owner, kind = job.kind, queue = job.queue}, message, deadline, fields)
redis.call('HSET', job_key(id), 'retried_as', new)
unbury(job)
purge(at, 4)
return {'created', at, redis.call('ZRANK', key('waiting:' .. job.queue), new)}
