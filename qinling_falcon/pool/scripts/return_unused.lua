-- return_unused: ends a lease whose worker was neither loaded nor called, or has emptied itself after a failed load.
-- ARGV    2 worker  3 token
-- reads   worker:<id>, journal:<holder>
-- writes  what release writes; warm:<runtime>
-- returns 1, or 0 when the lease is not the caller's any more (nothing changed)
-- promises  A worker that was only assigned is warm again. Nothing about the execution is left in Redis.

local is = call('HMGET', record(ARGV[2]), 'state', 'token')
if is[1] ~= 'leased' or is[2] ~= ARGV[3] then return 0 end
return_unused(ARGV[2])
return 1
