-- release: ends a lease after its call.
-- ARGV    5 worker  6 token  7 '1': the worker must not be used again
-- reads   worker:<id>, runtimes, lines, running:*      writes  worker:<id>, leases, running:*, executions, idle,
--         idle:<target> or draining; for waiters that can run now what lease writes
-- returns 1, or 0 when the lease is not the caller's any more (nothing changed)
-- promises  the first permitted waiter of the target gets the worker before it is idle for anybody else; waiters
--           that the function's or project's limit held back are served

local is = call('HMGET', P .. 'worker:' .. ARGV[5], 'state', 'token')
if is[1] ~= 'leased' or is[2] ~= ARGV[6] then return 0 end
local runtime, target, doomed = end_lease(ARGV[5])
if doomed or ARGV[7] == '1' then
  put_draining(ARGV[5], runtime)
else
  put_idle(ARGV[5], runtime, target)
end
settle_queue()
return 1
