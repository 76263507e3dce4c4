-- claim: one active pool manager.
-- ARGV    5 manager's name  6 ttl_ms
-- reads   manager      writes  manager
-- returns 1: it is the active one until the ttl is over, 0: another one is

local manager = call('GET', P .. 'manager')
if manager and manager ~= ARGV[5] then return 0 end
call('SET', P .. 'manager', ARGV[5], 'PX', ARGV[6])
return 1
