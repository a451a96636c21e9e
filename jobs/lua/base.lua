-- Shared by every step: it stands before each script when it is loaded (jobs/scripts.py), after the constants.
-- All times are milliseconds of the server's clock, so that no two machines have to agree on the time.

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function key(name) return PREFIX .. name end
local function job_key(id) return PREFIX .. 'job:' .. id end
