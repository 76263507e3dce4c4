-- remove: deletes the record of a worker that does not exist any more.
-- ARGV    2 worker  3 the reason, for the operator; empty or missing: it was asked to end
-- reads   worker:<id>
-- writes  worker:<id>, workers, live:<runtime>, starting:<runtime>, draining, lost, wakeups; for a lease what release
--         writes
-- promises  nothing about the worker is left in Redis; an execution that it ran is in `lost`

local worker = ARGV[2]
local is = call('HMGET', record(worker), 'state', 'runtime', 'accepted', 'target')
if not is[1] then return 0 end
if is[1] == 'leased' and is[3] == '0' then
  call('HSET', record(worker), 'drain', '1')
  return_unused(worker)
elseif is[1] == 'leased' then
  lose(worker, 'its worker ended')
else
  drain(worker)
end
if (ARGV[3] or '') ~= '' and is[1] ~= 'draining' then
  local event = is[1] == 'starting' and 'start_failed' or 'gone'
  note(event, ARGV[3], {worker = worker, runtime = is[2], target = is[4]})
end
call('ZREM', P .. 'starting:' .. is[2], worker)
call('ZREM', DRAINING, worker)
call('SREM', WORKERS, worker)
call('SREM', P .. 'live:' .. is[2], worker)
call('DEL', record(worker))
wake()
return 1
