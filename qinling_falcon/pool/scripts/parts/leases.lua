-- leases: which process uses which worker, and which executions are not committed yet.
--
-- A lease starts as an offer (to a process with an entry in a queue), or at once with an execution. Each holder has a
-- journal of the executions that it has started and whose final record is not committed. An execution stays there also
-- while its worker runs the next one already. Its value is the worker and token of its lease, and its detail.
-- include: workers limits queues events ended

local LOST = P .. 'lost'

local function journal_of(holder)
  return P .. 'journal:' .. holder
end

-- Writes an execution to a journal, unless its detail is empty.
local function write_journal(holder, execution, worker, token, detail)
  if detail ~= '' then call('HSET', journal_of(holder), execution, worker .. ' ' .. token .. ' ' .. detail) end
end

-- The detail of an execution, and the worker and token of its lease, from its value in a journal or in `lost`. Worker
-- and token are missing in `lost` if no worker runs the execution, and in the journal of an older release.
local function parse_journaled(value)
  local worker, token, detail = string.match(value, '^([^ {]+) (%d+) (.*)$')
  return detail or value, worker, token
end

-- The same for an execution in a journal; nil: it is not there.
local function read_journal(holder, execution)
  local value = call('HGET', journal_of(holder), execution)
  if not value then return nil end
  return parse_journaled(value)
end

-- Removes committed executions from a journal, and notifies the processes that watch one of them. `executions` is a
-- list of ids, joined by commas. They need not be in the journal.
local function acknowledge(holder, executions)
  if executions == '' then return end
  local ids = {}
  for id in string.gmatch(executions, '[^,]+') do ids[#ids + 1] = id end
  call('HDEL', journal_of(holder), unpack(ids))
  notify_ended(ids)
end

-- Updates the rank of a target's queue, after the number of the target's workers has changed.
local function update_rank_of(runtime, target, project_id)
  update_rank(queue_of(runtime, target, project_id, 'any'), runtime, target, 'any')
end

-- Leases a warm worker, or an idle one that was taken out of its sets. `wanted` has runtime, target, project_id and
-- holder. Unless the lease is an offer, it also has execution, run_ms and detail. The detail is empty if the worker is
-- loaded ahead of calls, so that there is no execution. Returns address, secret and token.
local function begin_lease(worker, is_warm, wanted, counts)
  local is = call('HMGET', record(worker), 'address', 'secret', 'token')
  local token = text(math.max((tonumber(is[3]) or 0) + 1, now))
  if is_warm then
    take_warm(worker, wanted.runtime)
    if held_by(wanted.target) == 0 then
      call('HINCRBY', POLICY, 'first ' .. wanted.runtime, 1)
      -- The processes decide whether one worker is enough for all waiting calls.
      local queue = queue_of(wanted.runtime, wanted.target, wanted.project_id, 'any')
      call('ZREM', P .. 'escalated:' .. wanted.runtime, queue)
    end
    assign(worker, wanted.target)
    update_rank_of(wanted.runtime, wanted.target, wanted.project_id)
    -- Otherwise the manager's next pass refills the stock. A start at once would take CPU time from this call.
    if call('ZCARD', P .. 'warm:' .. wanted.runtime) == 0 then wake() end
  end
  local accepted = wanted.execution ~= nil
  call('HSET', record(worker), 'state', 'leased', 'token', token, 'target', wanted.target, 'project',
    wanted.project_id, 'holder', wanted.holder, 'execution', wanted.execution or '', 'granted', text(now),
    'accepted', accepted and '1' or '0', 'new', is_warm and '1' or '0')
  call('ZADD', LEASES, now + (accepted and tonumber(wanted.run_ms) or ACCEPT_MS), worker)
  count_leases(counts, 1, wanted.target, wanted.project_id, wanted.runtime, wanted.holder)
  if counts.reservation then end_reservations(wanted.target, wanted.project_id, wanted.runtime) end
  if accepted then
    write_journal(wanted.holder, wanted.execution, worker, token, wanted.detail)
    -- The reaper must know each process that has a journal: without that, the journal of a process that was killed
    -- before its first heartbeat, or after Redis was emptied, would stay for ever.
    watch_holder(wanted.holder)
  end
  return is[1], is[2], token
end

-- The process that has the oldest call of a queue, and when that arrived. Entries of asynchronous executions that may
-- not have one more lease are removed before. Their processes ask again later.
local function first_entry(queue)
  while true do
    local first = call('ZRANGE', P .. 'queue:' .. queue, 0, 0, 'WITHSCORES')
    local holder = first[1]
    if not holder or not is_asynchronous(holder) then return holder, tonumber(first[2]) end
    local _, target, project_id = parse_queue(queue)
    if not exceeds_with_one_more(read_asynchronous(target, project_id)) then return holder, tonumber(first[2]) end
    set_entry(queue, holder, 0, now)
    notify(holder, queue, 'refused')
  end
end

-- Offers a worker, as `begin_lease` takes it, to the process that `first_entry` has returned.
local function offer(queue, holder, arrival, worker, is_warm, counts)
  local runtime, target, project_id = parse_queue(queue)
  local cold = 'none'
  if is_warm then cold = tonumber(call('HGET', record(worker), 'ready')) >= arrival and 'start' or 'assign' end
  local address, secret, token = begin_lease(worker, is_warm, {
    runtime = runtime, target = target, project_id = project_id, holder = holder,
  }, counts)
  set_entry(queue, holder, tonumber(call('HGET', P .. 'counts:' .. queue, holder)) - 1, arrival)
  notify(holder, queue, 'lease', worker, address, secret, token, cold, is_warm and '1' or '0')
end

-- Offers the queue an idle worker of its target, or a warm one if the target has no worker. Returns 'served', 'blocked'
-- (by a limit), 'short' (there is no such worker) or 'gone' (no call that may get a worker waits), the counts, and the
-- first entry.
local function serve(queue)
  local runtime, target, project_id, kind = parse_queue(queue)
  local holder, arrival = first_entry(queue)
  if not holder then return 'gone' end
  local counts = read_counts(target, project_id, runtime)
  if not allows_one_more(counts) then return 'blocked', counts end
  local worker = kind == 'any' and take_latest_idle(target)
  if worker then
    offer(queue, holder, arrival, worker, false, counts)
    return 'served', counts
  end
  if held_by(target) > 0 then return 'short', counts, holder, arrival end
  worker = call('ZRANGE', P .. 'warm:' .. runtime, 0, 0)[1]
  if not worker then return 'short', counts, holder, arrival end
  offer(queue, holder, arrival, worker, true, counts)
  return 'served', counts
end

-- Offers a warm worker to the first of the queues that want one more. The last `reserve` warm workers are only for
-- targets without a worker and, if there are `max_workers`, for queues of kind 'warm'. If there are `max_workers`,
-- targets that have their share of them come last. Returns whether a worker was offered.
local function give_warm(runtime, reserve)
  local warm = P .. 'warm:' .. runtime
  local count = call('ZCARD', warm)
  if count == 0 then return false end
  local most = tonumber(call('HGET', POLICY, 'max_workers')) or 0
  local share = math.floor(most / math.max(1, call('ZCARD', HELD)))
  local is_full = call('SCARD', WORKERS) >= most
  local later
  -- The first queues may all be of targets that have their share. A worker that is not the reserve comes rarely.
  local look_at = reserve == 0 and 4 * LOOK_AT or LOOK_AT
  for _, queue in ipairs(call('ZRANGE', P .. 'escalated:' .. runtime, 0, look_at - 1)) do
    local _, target, project_id, kind = parse_queue(queue)
    local held = held_by(target)
    local counts = read_counts(target, project_id, runtime)
    local holder, arrival = first_entry(queue)
    if not holder then
      -- it is gone
    elseif not allows_one_more(counts) then
      block(queue, runtime, project_id)
    elseif count > reserve or held == 0 or kind == 'warm' and is_full then
      if not is_full or share < 2 or held < share then
        offer(queue, holder, arrival, call('ZRANGE', warm, 0, 0)[1], true, counts)
        return true
      end
      later = later or {queue = queue, holder = holder, arrival = arrival, counts = counts}
    end
  end
  if not later then return false end
  offer(later.queue, later.holder, later.arrival, call('ZRANGE', warm, 0, 0)[1], true, later.counts)
  return true
end

-- Offers warm workers, as `give_warm` does, until no queue gets one.
local function give_all_warm(runtime, reserve)
  for _ = 1, LOOK_AT do
    if not give_warm(runtime, reserve) then return end
  end
end

-- Serves the first blocked queue of a project or runtime, after the end of a lease by which a limit was reached.
-- `counted` is 'project' or 'runtime'. Returns whether a queue was served. There are four cases for a queue:
-- 1. `serve` finds a worker for it, or there are several warm ones: it is served.
-- 2. There is no worker for it, and another queue is served: it is passed over. If the workers of its target are busy,
--    it gets the next one of them.
-- 3. There is no worker for it, and no other queue is served: it is escalated.
-- 4. As 2 or 3, but the queue has waited too long. The lease is reserved for it, and it is escalated. Until the
--    reservation ends, other queues get one lease less. Otherwise queues that have workers could keep it out for ever.
--    A queue of calls has waited too long in each of these cases:
--    a) Its target has no worker, and its oldest call has waited for `long_ms`.
--    b) No other queue could be served, and its oldest call has waited for `long_ms`.
--    c) It was passed over before, so that its place is `long_ms` or more after the arrival of its oldest call.
local function serve_blocked(counted, id)
  local start_ms = read_start_ms()
  local long_ms = math.min(LONG_WAIT_MS, math.max(SHORTEST_LONG_WAIT_MS, LONG_WAIT_STARTS * start_ms))
  local reserve_ms = math.max(SHORTEST_RESERVATION_MS, RESERVATION_STARTS * start_ms)

  local is_served, is_reserved, short = false, false, {}
  local blocked = call('ZRANGE', P .. 'blocked:' .. counted .. ':' .. id, 0, LOOK_AT - 1, 'WITHSCORES')
  for at = 1, #blocked, 2 do
    local queue, place = blocked[at], tonumber(blocked[at + 1])
    local runtime, target, project_id, kind = parse_queue(queue)
    local how, counts, holder, first_arrival = serve(queue)
    if how == 'short' and call('ZCARD', P .. 'warm:' .. runtime) > 1 then
      offer(queue, holder, first_arrival, call('ZRANGE', P .. 'warm:' .. runtime, 0, 0)[1], true, counts)
      how = 'served'
    end
    if how == 'served' then
      if call('EXISTS', P .. 'queue:' .. queue) == 1 then block(queue, runtime, project_id, oldest(queue)) end
      is_served = true
      break
    elseif how == 'blocked' then
      if is_reached(counts, counted) then break end
    elseif how == 'short' then
      local arrival = oldest(queue)
      short[#short + 1] = {queue = queue, arrival = arrival}
      local is_too_long = place - arrival >= long_ms or now - arrival >= long_ms and held_by(target) == 0
      if kind == 'any' and is_too_long and reserve(counts, reserve_ms, target, project_id, runtime) then
        is_reserved = true
        break
      end
    end
  end

  local is_last = #blocked < 2 * LOOK_AT
  for _, its in ipairs(short) do
    local queue, has_waited_long = its.queue, now - its.arrival >= long_ms
    local runtime, target, project_id, kind = parse_queue(queue)
    local counts = read_counts(target, project_id, runtime)
    if not first_entry(queue) then
      -- it is gone
    elseif not allows_one_more(counts) then
      pass_over(queue, its.arrival, runtime, project_id, long_ms)
    else
      if kind == 'any' and is_last and not is_served and not is_reserved and has_waited_long then
        is_reserved = reserve(counts, reserve_ms, target, project_id, runtime)
      end
      escalate(queue)
      give_all_warm(runtime, 1)
    end
  end
  return is_served
end

-- Unblocks those of some blocked queues of a runtime that are below their limits now: because a limit was raised, a
-- reservation ended, or the end of a lease did not reach all of many blocked queues. The first ones are among them.
local function serve_unblocked(runtime)
  local blocked = P .. 'blocked:runtime:' .. runtime
  local queues = call('ZRANGE', blocked, 0, LOOK_AT - 1)
  if #queues == LOOK_AT then
    for _, queue in ipairs(call('ZRANDMEMBER', blocked, 3 * LOOK_AT)) do queues[#queues + 1] = queue end
  end
  for _, queue in ipairs(queues) do
    local _, target, project_id = parse_queue(queue)
    local is_blocked = call('ZSCORE', blocked, queue)  -- it may be in the list twice
    if is_blocked and allows_one_more(read_counts(target, project_id, runtime)) then
      serve(queue)
      if call('EXISTS', P .. 'queue:' .. queue) == 1 then escalate(queue) end
    end
  end
end

-- Ends the lease of a worker. The worker is then in no set of a state. Returns which limits were reached before.
local function end_lease(worker, target, project_id, runtime, holder)
  call('ZREM', LEASES, worker)
  local counts = read_counts(target, project_id, runtime)
  local before = {has_reservation = counts.reservation == 'valid'}
  for _, limit in ipairs({'version', 'function', 'project', 'runtime'}) do
    -- A lease that is reserved for this target blocks the queues of other targets, so the limit is full for them.
    local reserved = before.has_reservation and 1 or counts[limit .. '_reserved']
    before[limit .. '_full'] = counts[limit .. 's'] + reserved >= counts[limit .. '_limit']
  end
  count_leases(counts, -1, target, project_id, runtime, holder)
  return before
end

-- Serves the queues that were blocked by the limits of a lease that has ended. Returns whether one of them was served.
local function serve_limits(before, project_id, runtime)
  -- The runtime's queues come first. Otherwise a queue of the project would get the lease, though others of the runtime
  -- have waited longer.
  local served = before.runtime_full and serve_blocked('runtime', runtime)
  if before.version_full or before.function_full or before.project_full then
    served = serve_blocked('project', project_id) or served
  end
  return served
end

-- Drains a worker that holds a target and is not leased.
local function drain_assigned(worker, runtime, target, project_id)
  if unassign(worker, target) then
    ask_again(runtime, target, project_id)
    give_all_warm(runtime, 1)  -- a queue of kind 'warm' of this target may have the last warm worker now
  else
    update_rank_of(runtime, target, project_id)
  end
  put_draining(worker, runtime)
end

-- Drains a worker. A leased one gets a mark, and drains after its call. `event` and `reason` are for the operator.
local function drain(worker, event, reason)
  local is = call('HMGET', record(worker), 'state', 'runtime', 'target', 'project')
  if is[1] == 'idle' then
    take_idle(worker, is[3])
    drain_assigned(worker, is[2], is[3], is[4])
  elseif is[1] == 'warm' then
    take_warm(worker, is[2])
    put_draining(worker, is[2])
  elseif is[1] ~= 'leased' or call('HSETNX', record(worker), 'drain', '1') == 0 then
    return
  end
  if event then note(event, reason, {worker = worker, runtime = is[2], target = is[3]}) end
end

-- Makes a worker idle whose lease has ended, and offers it to the oldest call of its target. If the lease was at a
-- limit, the target's queue is served in order with the other blocked queues, unless it has a reservation.
local function free(worker, runtime, target, project_id, kept, before)
  local queue = queue_of(runtime, target, project_id, 'any')
  put_idle(worker, target, kept)
  local is_waiting = call('EXISTS', P .. 'queue:' .. queue) == 1
  local is_at_limit = not before.has_reservation
    and (before.function_full or before.project_full or before.runtime_full)
  if is_at_limit then
    if is_waiting then block(queue, runtime, project_id, oldest(queue)) end
    if serve_limits(before, project_id, runtime) then return end
  end
  if is_waiting and serve(queue) == 'blocked' then block(queue, runtime, project_id, oldest(queue)) end
  if not is_at_limit then serve_limits(before, project_id, runtime) end
end

-- Ends a lease whose worker was neither loaded nor called. A worker that was only assigned is warm again.
local function return_unused(worker)
  local is = call('HMGET', record(worker), 'runtime', 'target', 'project', 'holder', 'execution', 'new', 'drain',
    'kept', 'recalled')
  local runtime, target, project_id = is[1], is[2], is[3]
  local before = end_lease(worker, target, project_id, runtime, is[4])
  call('HDEL', journal_of(is[4]), is[5])
  if is[7] or is[6] == '0' and (tonumber(is[9]) or 0) > now then
    drain_assigned(worker, runtime, target, project_id)
  elseif is[6] == '1' then
    if unassign(worker, target) then ask_again(runtime, target, project_id) end
    call('HDEL', record(worker), 'target', 'project', 'recalled')
    put_warm(worker, runtime)
    give_all_warm(runtime, 0)
  else
    return free(worker, runtime, target, project_id, is[8], before)
  end
  serve_limits(before, project_id, runtime)
end

-- Moves an execution from a journal to `lost`, so that it is recorded as lost. If its worker may still run it, `lost`
-- names the worker, and the manager records the execution when that worker is gone. `has_ended`: its worker has
-- answered. A worker that has a later token now, or is idle, has answered, too.
local function lose_execution(holder, execution, has_ended)
  local detail, worker, token = read_journal(holder, execution)
  if not detail then return end
  call('HDEL', journal_of(holder), execution)
  local is = worker and not has_ended and call('HMGET', record(worker), 'state', 'token') or {}
  local may_run = (is[1] == 'leased' or is[1] == 'draining') and (tonumber(is[2]) or 0) <= tonumber(token)
  call('HSET', LOST, execution, may_run and worker .. ' ' .. token .. ' ' .. detail or detail)
end

-- Ends a lease that its holder will not release. The worker drains, because its state is unknown.
local function lose(worker, reason)
  local is = call('HMGET', record(worker), 'runtime', 'target', 'project', 'holder', 'execution')
  local before = end_lease(worker, is[2], is[3], is[1], is[4])
  drain_assigned(worker, is[1], is[2], is[3])
  note('lost', reason, {
    worker = worker, runtime = is[1], target = is[2], holder = is[4], execution = is[5],
  })
  -- If the reply of a script was lost, its holder may have started the execution again on another worker.
  local _, its_worker = read_journal(is[4], is[5])
  if its_worker == nil or its_worker == worker then lose_execution(is[4], is[5]) end
  watch_holder(is[4])  -- because its journal may have further executions
  serve_limits(before, is[3], is[1])
end
