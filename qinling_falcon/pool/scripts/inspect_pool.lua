-- inspect_pool: the pool in numbers.
-- ARGV    2 the most runtimes to show
-- returns JSON (see `pool/inspection.py`)

local OUTCOMES = {'hit', 'wait', 'assign', 'start', 'refused'}
local CALLS = P .. 'calls'

local function calls_of(name)
  local fields = {}
  for at, outcome in ipairs(OUTCOMES) do fields[at] = name .. ' ' .. outcome end
  local counts, shown = call('HMGET', CALLS, unpack(fields)), {}
  for at, outcome in ipairs(OUTCOMES) do shown[outcome] = tonumber(counts[at]) or 0 end
  return shown
end

local configured, runtimes = call('HGETALL', RUNTIMES), {}
for at = 1, math.min(#configured, 2 * tonumber(ARGV[2])), 2 do
  local runtime = configured[at]
  local warm, live = call('ZCARD', P .. 'warm:' .. runtime), call('SCARD', P .. 'live:' .. runtime)
  local leased = tonumber(call('HGET', CONCURRENCY, 'runtime ' .. runtime)) or 0
  runtimes[#runtimes + 1] = {
    id = runtime, stock = tonumber(configured[at + 1]), starting = call('ZCARD', P .. 'starting:' .. runtime),
    warm = warm, idle = math.max(0, live - warm - leased), leased = leased,
    escalated = call('ZCARD', P .. 'escalated:' .. runtime),
    blocked = call('ZCARD', P .. 'blocked:runtime:' .. runtime),
    first_calls = tonumber(call('HGET', POLICY, 'first ' .. runtime)) or 0, calls = calls_of(runtime),
  }
end

local policy = call('HMGET', POLICY, 'max_workers', 'start_ms')
local limits = call('HMGET', CONCURRENCY, 'limit function', 'limit project')
return cjson.encode({
  manager = call('GET', P .. 'manager') or nil, host = call('GET', P .. 'host') or nil,
  workers = call('SCARD', WORKERS), leased = call('ZCARD', LEASES), draining = call('ZCARD', DRAINING),
  targets = call('ZCARD', HELD), processes = call('ZCARD', HOLDERS), lost = call('HLEN', LOST),
  waiting = tonumber(call('HGET', WAITING, 'all')) or 0, max_workers = tonumber(policy[1]),
  start_ms = tonumber(policy[2]),
  of_function = tonumber(limits[1]), of_project = tonumber(limits[2]), calls = calls_of('all'), runtimes = runtimes,
  left_out = #configured / 2 - #runtimes,
})
