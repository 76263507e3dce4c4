-- decline: returns a worker unused: the caller has gone, the caller has no package for the worker, or the worker could
--          not load the package and has emptied itself.
-- ARGV    5 worker  6 token
-- reads   worker:<id>, runtimes      writes  as release
-- returns 1, or 0 when the lease is not the caller's any more (nothing changed)
-- promises  a worker that was only assigned is warm again: it holds no function

local is = call('HMGET', P .. 'worker:' .. ARGV[5], 'state', 'token')
if is[1] ~= 'leased' or is[2] ~= ARGV[6] then return 0 end
return_unused(ARGV[5])
settle_queue()
return 1
