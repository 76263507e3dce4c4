-- claim: one active pool manager.
-- ARGV    2 manager's name  3 ttl_ms
-- reads   manager
-- writes  manager
-- returns the name of the active manager: the caller's own name (it is active until the ttl ends), or another's

local manager = call('GET', P .. 'manager')
if manager and manager ~= ARGV[2] then return manager end
call('SET', P .. 'manager', ARGV[2], 'PX', ARGV[3])
return ARGV[2]
