# Functions for tests of Lua VMs.
package Test::Memstat::Lua;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use Test::Memstat;

our @EXPORT_OK = qw(anonymous checked lua_of mcode run);

# Runs Lua code in the VM of a worker that includes run_by_lua.conf. Returns the code's result.
sub run {
    my ($t, $code) = @_;
    my $answer = $t->request(POST => '/run', body => $code);
    is $answer->{status}, 200, "ran: $code" or diag $answer->{body};
    return $answer->{body};
}

sub lua_of {
    my ($process, $subsystem) = @_;
    my ($lua) = grep { $_->{subsystem} eq ($subsystem // 'http') } @{ $process->{lua} // [] };
    return $lua;
}

# Returns the worker and its VM, after checks of everything that must be true at any time.
sub checked {
    my ($t, $what, $subsystem) = @_;
    my ($process) = active_workers($t->fresh);
    my $lua = lua_of($process, $subsystem) // die "no VM\n";
    my $category = ($subsystem // 'http') . '_luajit';
    is $lua->{allocated_bytes}, $lua->{gc_bytes}, "$what: allocated is what Lua counts";
    is $lua->{reserved}, $lua->{allocated_bytes} + $lua->{overhead_bytes} + $lua->{free_bytes},
        "$what: allocated, overhead and free are the footprint";
    is $lua->{reserved}, $lua->{segments}{bytes} + $lua->{direct}{bytes}, "$what: so are the mappings";
    is sum(values %{ $lua->{sizes} }) >= $lua->{resizes}, 1, "$what: sizes";
    cmp_ok $lua->{peak_bytes}, '>=', $lua->{allocated_bytes}, "$what: peak" if $lua->{vms} == 1;
    cmp_ok $lua->{largest_free}, '<=', $lua->{free_bytes}, "$what: largest free";
    is $process->{breakdown}{$category}{$_}, $lua->{$_}, "$what: $_ in the breakdown"
        for qw(reserved resident);
    adds_up($process, $what);
    is_deeply $process->{notes}, [], "$what: no notes";
    return ($lua, $process);
}

# Returns the bytes of a process's private anonymous mappings, without malloc's heap and stacks.
sub anonymous {
    my ($pid) = @_;
    return sum(map { $_->{size} } grep { $_->{rights} =~ /p$/ && !$_->{inode} && $_->{path} eq '' } maps($pid));
}

sub mcode { return $_[0]{breakdown}{luajit_mcode}{reserved} // 0 }

1;
