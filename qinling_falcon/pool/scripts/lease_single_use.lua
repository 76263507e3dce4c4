-- lease_single_use: registers a worker that its process is about to make for one execution, and leases it at once.
-- ARGV    2 holder  3 worker, a new id  4 runtime, for which no pool is configured  5 target  6 project
--         7 the version's own limit, or ''  8 execution  9 run_ms  10 detail  11 the image that the worker is made from
--         12 executions to acknowledge  13… pairs of (cache key, generation)
-- reads   generations, concurrency, workers, policy, draining, idle
-- writes  journal:<holder>, the version's own limit in concurrency; with a lease: workers, worker:<id>, live:<runtime>,
--         leases, concurrency, held, assigned_at, assigned:<function>; for an idle worker that is evicted what drain
--         writes
-- returns {'stale'}: a generation differs or is missing; only the acknowledged executions were removed
--         {'lease', token}
--         {'busy'}: a limit is reached, or there are max_workers workers. In the second case the idle worker that was
--         not used for the longest time is evicted, unless a worker is ending already.
-- promises  Leases never exceed the limits of version, function, project and runtime, and those of asynchronous
--           executions. There are never more than max_workers workers. The worker drains when its lease ends, however
--           that happens.

acknowledge(ARGV[2], ARGV[12])
if not current(ARGV, 13) then return {'stale'} end

local worker, runtime, target, project_id = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if is_asynchronous(ARGV[2]) and exceeds_with_one_more(read_asynchronous(target, project_id)) then return {'busy'} end
local counts = read_counts_with_own(target, project_id, runtime, ARGV[7])
if not allows_one_more(counts) then return {'busy'} end
if call('SCARD', WORKERS) >= (tonumber(call('HGET', POLICY, 'max_workers')) or 0) then
  local unused = call('ZCARD', DRAINING) == 0 and call('ZRANGE', IDLE, 0, 0)[1]
  if unused then drain(unused, 'evicted', 'a worker for a single execution needs its place') end
  return {'busy'}
end

call('SADD', WORKERS, worker)
call('SADD', P .. 'live:' .. runtime, worker)
call('HSET', record(worker), 'runtime', runtime, 'image', ARGV[11], 'started', text(now), 'ready', text(now),
  'single_use', '1', 'drain', '1')
assign(worker, target)
local _, _, token = begin_lease(worker, false, {
  runtime = runtime, target = target, project_id = project_id, holder = ARGV[2], execution = ARGV[8],
  run_ms = ARGV[9], detail = ARGV[10],
}, counts)
return {'lease', token}
