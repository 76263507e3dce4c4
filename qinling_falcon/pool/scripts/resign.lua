-- resign: gives up the claim of a pool manager after an orderly stop, so that another one can take over at once.
-- ARGV    2 manager's name
-- reads   manager
-- writes  manager
-- returns 1; 0: this manager was not the active one

if call('GET', P .. 'manager') ~= ARGV[2] then return 0 end
return call('DEL', P .. 'manager')
