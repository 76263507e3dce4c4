-- claim: one active pool manager.
-- ARGV    5 manager's name  6 ttl_ms
-- reads   manager      writes  manager
-- returns the name of the active manager: the caller's own name (it is active until the ttl ends), or another's

local manager = call('GET', P .. 'manager')
if manager and manager ~= ARGV[5] then return manager end
call('SET', P .. 'manager', ARGV[5], 'PX', ARGV[6])
return ARGV[5]
