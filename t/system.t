# Shared memory, stacks and code: each figure agrees with the actions of a test.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Cwd qw(abs_path);

use constant MB => 1048576;

# A Lua handler that fills the shared dictionary "dict" with count values of one megabyte. The slab
# allocator rounds each up to 257 pages.
use constant VALUE => 257 * 4096;

sub shm { my ($reply, $pid) = @_; return process_of($reply, $pid)->{breakdown}{nginx_shm} }

# Returns the Rss of a process's mappings that a function selects by their line in smaps.
sub rss_of {
    my ($pid, $picks) = @_;
    no warnings 'portable';
    my ($sum, $counts) = (0, 0);
    for (split /\n/, read_file("/proc/$pid/smaps")) {
        if (/^([0-9a-f]+)-([0-9a-f]+) /) { $counts = $picks->($_, hex($2) - hex($1)) }
        elsif ($counts && /^Rss:\s+(\d+) kB/) { $sum += $1 * 1024 }
    }
    return $sum;
}

# Returns the size of a new thread's stack.
sub stack_size {
    my ($pid) = @_;
    my ($soft) = read_file("/proc/$pid/limits") =~ /^Max stack size\s+(\S+)/m;
    return $soft eq 'unlimited' ? 2 * MB : $soft;
}

# Returns the name by which a library was loaded, often a symbolic link to the mapped file.
sub name_of {
    my ($path, $names) = @_;
    my ($folder, $name) = $path =~ m{^(.*/)([^/]+?)(?: \(deleted\))?$};
    return $name if $names->{$name};
    my ($link) = grep { (abs_path("$folder$_") // '') eq "$folder$name" } sort keys %$names;
    return $link // $name;
}

sub main_stack { my ($pid) = @_; return (map { $_->{size} } grep { $_->{path} eq '[stack]' } maps($pid))[0] }

run_tests();

__DATA__

=== TEST 1: a zone counts by what is touched
--- main_config
worker_processes 1;
--- http_config
lua_shared_dict dict 64m;
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        for i = 1, 8 do
            assert(ngx.shared.dict:safe_set("key" .. i, string.rep("x", 1048576)))
        end
        ngx.say(ngx.worker.pid())
    }
}
--- perl
my ($worker) = $t->workers;
my $before = $t->fresh;
cmp_ok shm($before, $worker)->{reserved}, '>=', 64 * MB, 'reserved in full';
cmp_ok shm($before, $worker)->{resident}, '<', 4 * MB, 'not yet touched';
$t->get_from($worker, '/fill');
my $after = $t->fresh;
near shm($after, $worker)->{resident} - shm($before, $worker)->{resident}, 8 * VALUE, 0.1 * 8 * VALUE,
    'the worker loaded what it touched';
is shm($after, $worker)->{reserved}, shm($before, $worker)->{reserved}, 'reserved is the same';
near $after->{totals}{shared_memory} - $before->{totals}{shared_memory}, 8 * VALUE, 0.1 * 8 * VALUE,
    'the server too';
my %status = proc_status($worker);
near process_of($after, $worker)->{system}{resident_shmem}, $status{RssShmem}, 65536, 'as the kernel says';

=== TEST 2: a zone counts only in the worker that touches it
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 64m;
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        local dict = ngx.shared.dict
        ngx.say(ngx.worker.pid())
        if dict:add("by", ngx.worker.pid()) then
            for i = 1, 8 do
                assert(dict:safe_set("key" .. i, string.rep("x", 1048576)))
            end
        end
    }
}
location /read {
    content_by_lua_block {
        ngx.say(ngx.worker.pid())
        for i = 1, 8 do
            assert(#ngx.shared.dict:get("key" .. i) == 1048576)
        end
    }
}
--- perl
my $before = $t->fresh;
my ($filler) = $t->get('/fill')->{body} =~ /^(\d+)/;
my ($other) = grep { $_ != $filler } $t->workers;
my $after = $t->fresh;
my $rise = sub { my ($reply, $pid) = @_; shm($reply, $pid)->{resident} - shm($before, $pid)->{resident} };
my $total = sub { $_[0]{totals}{shared_memory} - $before->{totals}{shared_memory} };
near $rise->($after, $filler), 8 * VALUE, 0.1 * 8 * VALUE, 'the one that fills it has it loaded';
near $rise->($after, $other), 0, 0.25 * MB, 'the other has not';
near $total->($after), 8 * VALUE, 0.1 * 8 * VALUE, 'it is there once';

$t->get_from($other, '/read');
my $last = $t->fresh;
near $rise->($last, $filler), 8 * VALUE, 0.1 * 8 * VALUE, 'the one that filled it has it still';
near $rise->($last, $other), 8 * VALUE, 0.1 * 8 * VALUE, 'the one that reads it has it too';
near $total->($last), 8 * VALUE, 0.1 * 8 * VALUE, 'it is still there once';

=== TEST 3: pages that the master touched do not count in its workers
--- main_config
worker_processes 1;
--- http_config
lua_shared_dict dict 64m;
init_by_lua_block {
    for i = 1, 4 do
        assert(ngx.shared.dict:safe_set("key" .. i, string.rep("x", 1048576)))
    end
}
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $reply = $t->fresh;
cmp_ok shm($reply, $worker)->{resident}, '<', 2 * MB, 'the worker has not loaded it';
cmp_ok $reply->{totals}{shared_memory}, '>=', 4 * VALUE, 'but it is there';
cmp_ok $reply->{totals}{shared_memory}, '<', 10 * MB, 'and no more than that';

=== TEST 4: stacks of all threads
--- main_config
worker_processes 1;
thread_pool seven threads=7;
--- config
location /memstat { memstat; }
location /file { sendfile off; aio threads=seven; output_buffers 1 64k; alias html/file; }
--- user_files
>>> file
some text
--- perl
my ($worker) = $t->workers;
my $check = sub {
    my ($when) = @_;
    my $process = process_of($t->fresh, $worker);
    my $stacks = $process->{stacks};
    is $stacks->{threads}, threads($worker), "$when: threads";
    is $stacks->{threads}, 8, "$when: seven and the main one";
    my $size = stack_size($worker);
    near $stacks->{reserved}, 7 * $size + main_stack($worker), MB / 2, "$when: reserved";
    my $resident = rss_of($worker, sub { my ($line, $bytes) = @_;
        $line =~ /\[stack\]/ || ($line =~ / rw-p 00000000 00:00 0 *$/ && abs($bytes - $size) <= 65536) });
    near $stacks->{resident}, $resident, 65536, "$when: resident";
    cmp_ok $stacks->{resident}, '>=', 8 * page_size(), "$when: each has touched something";
    is_deeply { map { $_ => $process->{breakdown}{stacks}{$_} } qw(reserved resident) },
        { map { $_ => $stacks->{$_} } qw(reserved resident) }, "$when: so does the breakdown say";
};
$check->('idle');
is $t->get('/file')->{body}, "some text\n", 'a file by the pool' for 1 .. 20;
$check->('used');

=== TEST 5: no threads but the main one
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $stacks = process_of($t->fresh, $worker)->{stacks};
is $stacks->{threads}, 1, 'threads';
is $stacks->{reserved}, main_stack($worker), 'reserved';
near $stacks->{resident}, rss_of($worker, sub { $_[0] =~ /\[stack\]/ }), 16384, 'resident';

=== TEST 6: two pools
--- main_config
thread_pool default threads=5;
thread_pool more threads=20;
--- config
location /memstat { memstat; }
location /a { aio threads; }
location /b { aio threads=more; }
--- perl
my ($worker) = $t->workers;
my $stacks = process_of($t->fresh, $worker)->{stacks};
is threads($worker), 26, 'both run';
is $stacks->{threads}, 26, 'both are counted';
near $stacks->{reserved}, 25 * stack_size($worker) + main_stack($worker), MB / 2, 'reserved';

=== TEST 7: code
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
--- perl
for my $pid ($t->workers) {
    my $text = process_of($t->fresh, $pid)->{text};
    my %said = map { $_->{path} => $_->{bytes} } @{ $text->{objects} };
    my %mapped;
    for my $map (maps($pid)) {
        next unless $map->{rights} =~ /x/ && $map->{inode};
        $mapped{ name_of($map->{path}, \%said) } += $map->{size};
    }
    is_deeply [ sort keys %said ], [ sort keys %mapped ], 'the objects';
    my ($nginx) = readlink("/proc/$pid/exe") =~ m{([^/]+)$};
    my ($module) = $t->module =~ m{([^/]+)$};
    ok $said{$_}, "$_ is among them" for $nginx, $module, 'libc.so.6', 'ngx_http_lua_module.so';
    near $said{$_}, $mapped{$_}, page_size(), $_ for sort keys %mapped;
    near $text->{bytes}, sum(values %mapped), keys(%mapped) * page_size(), 'all together';
    is $text->{bytes}, sum(values %said), 'the sum of all';
    my @sizes = map { $_->{bytes} } @{ $text->{objects} };
    is_deeply \@sizes, [ sort { $b <=> $a } @sizes ], 'largest first';
}

=== TEST 8: the breakdown by what smaps says
--- http_config
lua_shared_dict dict 8m;
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $breakdown = process_of(settled($t), $worker)->{breakdown};
my $text = rss_of($worker, sub { $_[0] =~ / r-xp \S+ \S+ [1-9]/ });
near $breakdown->{text}{resident}, $text, 0.02 * $text + 65536, 'text';
my $shm = rss_of($worker, sub { $_[0] =~ m{ rw-s .*/dev/zero} });
near $breakdown->{nginx_shm}{resident}, $shm, 65536, 'nginx_shm';
my $shared = sum(map { $_->{size} } grep { $_->{rights} eq 'rw-s' && $_->{path} =~ m{/dev/zero} } maps($worker));
is $breakdown->{nginx_shm}{reserved}, $shared, 'nginx_shm, reserved';
cmp_ok $breakdown->{data}{resident}, '>', 0, 'data';
cmp_ok $breakdown->{glibc_heap}{resident}, '>', 100_000, 'glibc_heap';
my $heap = sum(map { $_->{size} } grep { $_->{path} eq '[heap]' } maps($worker));
cmp_ok $breakdown->{glibc_heap}{reserved}, '>=', $heap, 'glibc_heap has all of [heap]';

=== TEST 9: a zone of gigabytes does not slow the answer
--- main_config
worker_processes 2;
--- http_config
init_by_lua_block { count, full = 0, false }
lua_shared_dict dict 512m;
--- config
location /memstat { memstat; }
# The named worker sets a few more values, until there is no memory.
location /fill {
    content_by_lua_block {
        local dict, value = ngx.shared.dict, string.rep("x", 16777216)
        if ngx.worker.pid() == tonumber(ngx.var.args) then
            for i = 1, 16 do
                if not dict:safe_set("key" .. count, value) then full = true break end
                count = count + 1
            end
        end
        ngx.say(ngx.worker.pid(), " ", full and count * 16777216 or "")
    }
}
--- perl
my ($available) = read_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB/m;
$t->reload(http_config => $t->{sections}{http_config} =~ s/512m/4096m/r)->old_gone if $available > 8 * 1048576;
my $before = $t->fresh;
my ($filler, $other) = $t->workers;
my $bytes;
# With several short requests, so that no client waits for all of them.
until ($bytes) { ($bytes) = $t->get_from($filler, "/fill?$filler")->{body} =~ /^\d+ (\d+)/ }
cmp_ok $bytes, '>=', 400 * MB, "$bytes bytes";
for my $nth (1 .. 3) {
    my %before = map { $_ => cpu_time($_) } $filler, $other;
    my $reply = $t->fresh;
    cmp_ok cpu_time($_) - $before{$_}, '<', 0.2, "answer $nth: it costs $_ no more than the default timeout"
        for $filler, $other;
    is scalar(active_workers($reply)), 2, "answer $nth: both workers";
    near shm($reply, $filler)->{resident} - shm($before, $filler)->{resident}, $bytes, 0.02 * $bytes,
        "answer $nth: the worker has it loaded";
    ok !defined $reply->{totals}{shared_memory}
        || abs($reply->{totals}{shared_memory} - $before->{totals}{shared_memory} - $bytes) <= 0.02 * $bytes,
        "answer $nth: the server has it loaded";
}
isnt $t->fresh->{totals}{shared_memory}, undef, 'it is known in the end';
