-- release: ends a lease after its execution. The execution stays in the holder's journal until it is acknowledged.
-- ARGV    2 worker  3 token  4 '1': the worker must not be used again  5 holder  6 executions to acknowledge
-- reads   worker:<id>, concurrency, queue:<queue>, blocked:<limit>
-- writes  worker:<id>, leases, concurrency, journal:<holder>; idle and idle:<target>, or what drain writes; for a queue
--         that is served now its entry, what lease writes, grants:<holder>
-- returns 1, or 0 when the lease is not the caller's any more (only the acknowledged executions were removed)
-- promises  The oldest waiting call of the target is offered the worker. Only if there is none is it idle. If a limit
--           was reached, a queue that it blocked is served.

acknowledge(ARGV[5], ARGV[6])
local is = call('HMGET', record(ARGV[2]), 'state', 'token', 'runtime', 'target', 'project', 'drain', 'recalled', 'kept')
if is[1] ~= 'leased' or is[2] ~= ARGV[3] then return 0 end
local runtime, target, project_id = is[3], is[4], is[5]
local before = end_lease(ARGV[2], target, project_id, runtime, ARGV[5])
if is[6] or ARGV[4] == '1' or (tonumber(is[7]) or 0) > now then
  local reason = ARGV[4] == '1' and 'its process does not use it again' or is[6] and 'it was to end after its call'
  note('ended', reason or 'it was recalled', {worker = ARGV[2], runtime = runtime, target = target, holder = ARGV[5]})
  drain_assigned(ARGV[2], runtime, target, project_id)
  serve_limits(before, project_id, runtime)
else
  free(ARGV[2], runtime, target, project_id, is[8], before)
end
return 1
